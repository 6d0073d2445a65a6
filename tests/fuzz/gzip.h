// gzip for seeds: what the readers under test unpack.
#pragma once

#include <zlib.h>

#include <string>

#include "tests/fuzz/target.h"

namespace laplaced::fuzz {

inline std::string Gzip(const std::string& plain) {
  constexpr int kGzipWindow = 15 + 16;
  z_stream stream = {};
  Require(deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, kGzipWindow, 8,
                       Z_DEFAULT_STRATEGY) == Z_OK,
          "cannot begin to compress");
  std::string packed(deflateBound(&stream, static_cast<uLong>(plain.size())), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  Require(deflate(&stream, Z_FINISH) == Z_STREAM_END, "cannot compress");
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

}  // namespace laplaced::fuzz
