// The server's log: one line per event on standard error, for people or for machines.
//
//   text  2026-11-24T09:30:00.123Z info loaded model name=net version=3
//   json  {"time":"2026-11-24T09:30:00.123Z","severity":"INFO","message":"loaded
//   model","name":"net",...}
//
// The names time, severity and message are those that log collectors know. Text that came from a
// client cannot forge a line or a field: text shows control characters as \xNN and quotes values
// that hold more than letters, digits and harmless signs; JSON escapes, and replaces what is not
// UTF-8. Plain functions, because LibTorch's headers own the macros LOG and CHECK. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace laplaced {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

// A value beside the message. The name is a literal like_this.
struct LogField {
  LogField(const char* field, std::string text) : name(field), value(std::move(text)) {}
  LogField(const char* field, const char* text) : name(field), value(std::string(text)) {}
  LogField(const char* field, double number) : name(field), value(number) {}
  template <typename Int, typename = std::enable_if_t<std::is_integral_v<Int>>>
  LogField(const char* field, Int number) : name(field), value(static_cast<int64_t>(number)) {}

  const char* name;
  std::variant<std::string, int64_t, double> value;
};
using LogFields = std::vector<LogField>;

// "debug", "info", "warning" or "error"; false for anything else.
bool ParseLogLevel(const std::string& name, LogLevel* level);

// "text", "json" or "auto" (text if standard error is a terminal); false for anything else.
bool ParseLogFormat(const std::string& name, LogFormat* format);

// Messages below `level` are dropped. Before the first call the level is kInfo.
void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);

// Before the first call the format is kText.
void SetLogFormat(LogFormat format);

void Log(LogLevel level, const std::string& message, const LogFields& fields = {});
void LogDebug(const std::string& message, const LogFields& fields = {});
void LogInfo(const std::string& message, const LogFields& fields = {});
void LogWarning(const std::string& message, const LogFields& fields = {});
void LogError(const std::string& message, const LogFields& fields = {});

}  // namespace laplaced
