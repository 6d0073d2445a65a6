// Runs a reader of files over damaged versions of a good file.
//
// For tests: `read` is called with the path of each version and returns the status of reading it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/temp_folder.h"

namespace laplaced::test_support {

using FileReader = std::function<absl::Status(const std::string& path)>;

// Every proper prefix of `bytes` must be refused with `code`.
inline void ExpectEveryTruncationRefused(const std::string& bytes, const std::string& name,
                                         absl::StatusCode code, const FileReader& read) {
  TempFolder folder;
  ASSERT_TRUE(read(folder.Write(name, bytes)).ok()) << "the whole file must be readable";
  for (size_t size = 0; size < bytes.size(); ++size) {
    const absl::Status status = read(folder.Write(name, bytes.substr(0, size)));
    EXPECT_EQ(status.code(), code)
        << "cut to " << size << " of " << bytes.size() << " bytes: " << status;
  }
}

// Calls `check` with the status of reading each version that differs from `bytes` in one bit.
inline void ForEveryBitFlip(
    const std::string& bytes, const std::string& name, const FileReader& read,
    const std::function<void(size_t bit, const absl::Status& status)>& check) {
  TempFolder folder;
  ASSERT_TRUE(read(folder.Write(name, bytes)).ok()) << "the whole file must be readable";
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    check(bit, read(folder.Write(name, flipped)));
  }
}

inline void ExpectEveryBitFlipRefused(const std::string& bytes, const std::string& name,
                                      absl::StatusCode code, const FileReader& read) {
  ForEveryBitFlip(bytes, name, read, [code](size_t bit, const absl::Status& status) {
    EXPECT_EQ(status.code(), code) << "bit " << bit << " flipped: " << status;
  });
}

// A flip may go unnoticed, where the format has no checksum, but must not lead to another error.
inline void ExpectEveryBitFlipSurvived(const std::string& bytes, const std::string& name,
                                       absl::StatusCode code, const FileReader& read) {
  ForEveryBitFlip(bytes, name, read, [code](size_t bit, const absl::Status& status) {
    EXPECT_TRUE(status.ok() || status.code() == code) << "bit " << bit << " flipped: " << status;
  });
}

}  // namespace laplaced::test_support
