// Runs the command line as a process against a fake server.
//
// For tests.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "formats/npz.h"
#include "tests/client/fake_server.h"
#include "tests/support/temp_folder.h"

namespace laplace::client {

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

inline std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Command : public ::testing::Test {
 protected:
  // The configuration of whoever runs the tests stays out of them.
  Command() { setenv("XDG_CONFIG_HOME", folder_.c_str(), 1); }

  // Runs `laplace <arguments>` with the fake server in the environment.
  Outcome Run(const std::string& arguments, const std::string& input = "/dev/null") const {
    return Shell(
        absl::StrCat("LAPLACE_SERVER=", server_.address(), " ", LAPLACE_COMMAND, " ", arguments),
        input);
  }

  // Runs a command of the shell as it is.
  Outcome Shell(const std::string& command, const std::string& input = "/dev/null") const {
    const std::string redirected =
        absl::StrCat(command, " >", folder_, "/out 2>", folder_, "/err <", input);
    const int status = std::system(redirected.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadText(folder_ + "/out"),
            ReadText(folder_ + "/err")};
  }

  // Four rows of two pixels with labels.
  std::string DataFile() const {
    ::laplaced::Array x;
    x.dtype = ::laplaced::DType::kUint8;
    x.shape = {4, 2};
    x.bytes = std::string("\0\5\1\6\2\xC8\1\7", 8);
    ::laplaced::Array y;
    y.dtype = ::laplaced::DType::kUint8;
    y.shape = {4};
    y.bytes = std::string("\0\1\2\2", 4);
    const std::string path = folder_ + "/data.npz";
    EXPECT_TRUE(::laplaced::WriteNpz(path, {{"x", x}, {"y", y}}).ok());
    return path;
  }

  void ScriptASuccess() {
    v1::Operation running;
    running.set_state(v1::OPERATION_STATE_RUNNING);
    running.set_phase("directions");
    running.set_fraction(0.4);
    running.set_done(4);
    running.set_total(10);
    v1::Operation done = running;
    done.set_state(v1::OPERATION_STATE_SUCCEEDED);
    done.set_fraction(1);
    done.set_posterior_id("p-1");
    server_.SetOperationScript({running, done});
  }

  FakeServer server_;
  const ::laplaced::test_support::TempFolder temporary_;
  const std::string folder_ = temporary_.path();
};

}  // namespace laplace::client
