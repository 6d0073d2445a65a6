# laplaced_room(NAME [TORCH] [SOURCES file...] [EXCEPT file...] DEPS lib...): the static library of one room. It is made of
# SOURCES, or else of every .cc file in the folder but EXCEPT. TORCH rooms compile with the shared precompiled LibTorch
# header.
function(laplaced_room NAME)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;EXCEPT;DEPS" ${ARGN})
  set(sources ${ARG_SOURCES})
  if(NOT sources)
    file(GLOB sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
    list(REMOVE_ITEM sources ${ARG_EXCEPT})
  endif()
  add_library(${NAME} STATIC ${sources})
  # Some rooms are installed, and neither this source tree nor its warnings are.
  target_include_directories(${NAME} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_link_libraries(${NAME} PUBLIC ${ARG_DEPS} PRIVATE $<BUILD_INTERFACE:laplaced_warnings>)
  if(ARG_TORCH)
    laplaced_use_torch(${NAME})
  endif()
endfunction()
