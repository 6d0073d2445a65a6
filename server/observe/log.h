// The server's log: one line of text per event on standard error, with UTC time and level.
//
// Plain functions, because LibTorch's headers own the macros LOG and CHECK. Control characters in a
// message are shown as \xNN, so text that came from a client cannot forge a line. Thread-safe.
#pragma once

#include <string>

namespace laplaced {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning" or "error"; false for anything else.
bool ParseLogLevel(const std::string& name, LogLevel* level);

// Messages below `level` are dropped. Before the first call the level is kInfo.
void SetLogLevel(LogLevel level);

void LogDebug(const std::string& message);
void LogInfo(const std::string& message);
void LogWarning(const std::string& message);
void LogError(const std::string& message);

}  // namespace laplaced
