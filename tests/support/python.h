// Runs small Python programs, to hold our files against the libraries that define their formats.
//
// For tests. The interpreter is $LAPLACED_PYTHON, or the first of "python3" and "/usr/bin/python3"
// that has the modules a test needs; a test that finds none should GTEST_SKIP.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace laplaced::test_support {

struct PythonResult {
  int exit_status = -1;
  std::string output;  // stdout and stderr
};

inline std::string ShellQuoted(const std::string& text) {
  std::string quoted = "'";
  for (char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

inline PythonResult RunPython(const std::string& python, const std::string& program,
                              const std::vector<std::string>& arguments) {
  std::string command = ShellQuoted(python) + " -c " + ShellQuoted(program);
  for (const std::string& argument : arguments) command += " " + ShellQuoted(argument);
  PythonResult result;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  char block[4096];
  for (size_t n; (n = fread(block, 1, sizeof block, pipe)) > 0;) result.output.append(block, n);
  const int status = pclose(pipe);
  result.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

// Empty if no interpreter can import `modules` ("numpy" or "numpy, safetensors").
inline std::string FindPython(const std::string& modules) {
  std::vector<std::string> candidates = {"python3", "/usr/bin/python3"};
  if (const char* chosen = std::getenv("LAPLACED_PYTHON")) candidates = {chosen};
  for (const std::string& candidate : candidates) {
    if (RunPython(candidate, "import " + modules, {}).exit_status == 0) return candidate;
  }
  return "";
}

}  // namespace laplaced::test_support
