#include "client/cli/help.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace laplace::cli {
namespace {

constexpr size_t kColumn = 30;
constexpr size_t kWidth = 100;

// What CLI11 calls the group of options that are given none.
constexpr char kDefaultGroup[] = "Options";

using Entries = std::vector<std::pair<std::string, std::string>>;

// "laplace models load": from the root down.
std::string Path(const CLI::App* app) {
  const CLI::App* parent = app->get_parent();
  return parent ? absl::StrCat(Path(parent), " ", app->get_name()) : app->get_name();
}

const CLI::App* Root(const CLI::App* app) {
  while (app->get_parent()) app = app->get_parent();
  return app;
}

// Words in lines that start at `indent`.
std::string Wrapped(const std::string& text, size_t indent) {
  std::string out;
  size_t column = indent;
  for (const auto& word : absl::StrSplit(text, ' ')) {
    if (column > indent && column + 1 + word.size() > kWidth) {
      absl::StrAppend(&out, "\n", std::string(indent, ' '));
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    absl::StrAppend(&out, word);
    column += word.size();
  }
  return out;
}

std::string Section(const std::string& title, const Entries& entries) {
  if (entries.empty()) return "";
  std::string text = absl::StrCat("\n", title, ":\n");
  for (const auto& [left, right] : entries) {
    std::string line = absl::StrCat("  ", left);
    if (line.size() + 2 > kColumn) {
      line += "\n" + std::string(kColumn, ' ');
    } else {
      line.resize(kColumn, ' ');
    }
    absl::StrAppend(&text, line, Wrapped(right, kColumn), "\n");
  }
  return text;
}

// Those of one group; positional ones have none of their own.
Entries Options(const CLI::App* app, bool positional, const std::string& group = kDefaultGroup) {
  Entries entries;
  for (const CLI::Option* option : app->get_options()) {
    if (option->get_positional() != positional || option->get_group() != group) continue;
    std::string left =
        absl::StrReplaceAll(option->get_name(positional, !positional), {{",", ", "}});
    if (!positional && option->get_items_expected_max() > 0) {
      absl::StrAppend(&left, " ", option->get_type_name());
    }
    std::string right = option->get_description();
    if (!option->get_envname().empty()) {
      absl::StrAppend(&right, " [environment: ", option->get_envname(), "]");
    }
    entries.emplace_back(std::move(left), std::move(right));
  }
  return entries;
}

// In the order in which they first occur.
std::vector<std::string> NamedGroups(const CLI::App* app) {
  std::vector<std::string> groups;
  for (const CLI::Option* option : app->get_options()) {
    const std::string& group = option->get_group();
    const bool known = std::find(groups.begin(), groups.end(), group) != groups.end();
    if (group != kDefaultGroup && !known) groups.push_back(group);
  }
  return groups;
}

Entries Verbs(const CLI::App* app) {
  Entries entries;
  for (const CLI::App* verb : app->get_subcommands(nullptr)) {
    entries.emplace_back(verb->get_name(), verb->get_description());
  }
  return entries;
}

}  // namespace

std::string HelpText(const CLI::App* app, std::string /*name*/, CLI::AppFormatMode /*mode*/) {
  const Entries verbs = Verbs(app);
  const Entries arguments = Options(app, /*positional=*/true);
  std::string usage = absl::StrCat("Usage: ", Path(app), verbs.empty() ? "" : " VERB");
  for (const auto& [name, description] : arguments) absl::StrAppend(&usage, " ", name);
  std::string text = absl::StrCat(Wrapped(app->get_description(), 0), "\n\n", usage, " [options]\n",
                                  Section("Verbs", verbs), Section("Arguments", arguments));
  for (const std::string& group : NamedGroups(app)) {
    absl::StrAppend(&text, Section(group, Options(app, false, group)));
  }
  absl::StrAppend(&text, Section(kDefaultGroup, Options(app, false)));
  if (app != Root(app)) {
    Entries common;
    for (auto& entry : Options(Root(app), false)) {
      const std::string flag = entry.first.substr(0, entry.first.find_first_of(", "));
      // A verb's own option goes before the common one of the same name.
      const bool own = app->get_option_no_throw(flag) != nullptr;
      if (!own) common.push_back(std::move(entry));
    }
    absl::StrAppend(&text, Section("Options of every verb", common));
  }
  const std::string footer = app->get_footer();
  if (!footer.empty()) absl::StrAppend(&text, "\n", footer, "\n");
  return text;
}

}  // namespace laplace::cli
