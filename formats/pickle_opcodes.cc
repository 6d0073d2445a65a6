#include "formats/pickle_opcodes.h"

#include "absl/strings/str_cat.h"

namespace laplaced {
namespace {

struct NamedOpcode {
  uint8_t opcode;
  const char* name;
};

constexpr NamedOpcode kNotRead[] = {
    {'0', "POP"},          {'1', "POP_MARK"},
    {'2', "DUP"},          {'F', "FLOAT"},
    {'I', "INT"},          {'L', "LONG"},
    {'P', "PERSID"},       {'S', "STRING"},
    {'V', "UNICODE"},      {'d', "DICT"},
    {'g', "GET"},          {'i', "INST"},
    {'l', "LIST"},         {'o', "OBJ"},
    {'p', "PUT"},          {0x82, "EXT1"},
    {0x83, "EXT2"},        {0x84, "EXT4"},
    {0x8b, "LONG4"},       {0x8f, "EMPTY_SET"},
    {0x90, "ADDITEMS"},    {0x91, "FROZENSET"},
    {0x92, "NEWOBJ_EX"},   {0x96, "BYTEARRAY8"},
    {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"},
};

}  // namespace

std::string PickleOpcodeName(uint8_t opcode) {
  const std::string number = absl::StrCat("0x", absl::Hex(opcode, absl::kZeroPad2));
  for (const NamedOpcode& known : kNotRead) {
    if (known.opcode == opcode) return absl::StrCat(known.name, " (", number, ")");
  }
  return number;
}

}  // namespace laplaced
