#include "server/observe/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace laplaced {
namespace {

std::atomic<LogLevel> lowest_level{LogLevel::kInfo};
std::atomic<LogFormat> log_format{LogFormat::kText};

struct LevelNames {
  const char* text;
  const char* json;
};

LevelNames NamesOf(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return {"debug", "DEBUG"};
    case LogLevel::kInfo:
      return {"info", "INFO"};
    case LogLevel::kWarning:
      return {"warning", "WARNING"};
    case LogLevel::kError:
      return {"error", "ERROR"};
  }
  return {"error", "ERROR"};
}

spdlog::logger& Logger() {
  // Never destroyed: threads may still log while static objects go away.
  static spdlog::logger* logger = [] {
    auto* made = new spdlog::logger("laplaced", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->set_level(spdlog::level::trace);
    return made;
  }();
  return *logger;
}

std::string OneLine(const std::string& message) {
  std::string line;
  line.reserve(message.size());
  for (const char c : message) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
      line += escaped;
    } else {
      line += c;
    }
  }
  return line;
}

bool IsPlain(const std::string& text) {
  constexpr absl::string_view kHarmless = "-_.:/+%[]";
  for (const char c : text) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains(kHarmless, c)) {
      return false;
    }
  }
  return !text.empty();
}

std::string ValueText(const std::string& text) {
  if (IsPlain(text)) return text;
  std::string quoted = "\"";
  for (const char c : OneLine(text)) {
    if (c == '"') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}
std::string ValueText(int64_t number) { return absl::StrCat(number); }
std::string ValueText(double number) { return absl::StrCat(number); }

std::string TextLine(const std::string& time, LogLevel level, const std::string& message,
                     const LogFields& fields) {
  std::string line = absl::StrCat(time, " ", NamesOf(level).text, " ", OneLine(message));
  for (const LogField& field : fields) {
    const std::string value = std::visit([](const auto& v) { return ValueText(v); }, field.value);
    absl::StrAppend(&line, " ", field.name, "=", value);
  }
  return line;
}

std::string JsonLine(const std::string& time, LogLevel level, const std::string& message,
                     const LogFields& fields) {
  nlohmann::ordered_json line = {
      {"time", time}, {"severity", NamesOf(level).json}, {"message", message}};
  for (const LogField& field : fields) {
    std::visit([&](const auto& value) { line[field.name] = value; }, field.value);
  }
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

bool ParseLogLevel(const std::string& name, LogLevel* level) {
  if (name == "debug") {
    *level = LogLevel::kDebug;
  } else if (name == "info") {
    *level = LogLevel::kInfo;
  } else if (name == "warning") {
    *level = LogLevel::kWarning;
  } else if (name == "error") {
    *level = LogLevel::kError;
  } else {
    return false;
  }
  return true;
}

bool ParseLogFormat(const std::string& name, LogFormat* format) {
  if (name == "text") {
    *format = LogFormat::kText;
  } else if (name == "json") {
    *format = LogFormat::kJson;
  } else if (name == "auto") {
    *format = isatty(STDERR_FILENO) == 1 ? LogFormat::kText : LogFormat::kJson;
  } else {
    return false;
  }
  return true;
}

void SetLogLevel(LogLevel level) { lowest_level.store(level, std::memory_order_relaxed); }

bool LogEnabled(LogLevel level) { return level >= lowest_level.load(std::memory_order_relaxed); }

void SetLogFormat(LogFormat format) { log_format.store(format, std::memory_order_relaxed); }

void Log(LogLevel level, const std::string& message, const LogFields& fields) {
  if (!LogEnabled(level)) return;
  const std::string time =
      absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  const bool json = log_format.load(std::memory_order_relaxed) == LogFormat::kJson;
  const std::string line =
      json ? JsonLine(time, level, message, fields) : TextLine(time, level, message, fields);
  Logger().log(spdlog::level::info, spdlog::string_view_t(line));
}

void LogDebug(const std::string& message, const LogFields& fields) {
  Log(LogLevel::kDebug, message, fields);
}
void LogInfo(const std::string& message, const LogFields& fields) {
  Log(LogLevel::kInfo, message, fields);
}
void LogWarning(const std::string& message, const LogFields& fields) {
  Log(LogLevel::kWarning, message, fields);
}
void LogError(const std::string& message, const LogFields& fields) {
  Log(LogLevel::kError, message, fields);
}

}  // namespace laplaced
