#include "client/cli/completion.h"

#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/context.h"

namespace laplace::cli {
namespace {

// What completes the value of an option, told from its name in --help, such as "table|json|FILE".
struct Values {
  std::vector<std::string> words;
  bool files = false;
};

Values ValuesOf(const CLI::Option& option) {
  Values values;
  for (const absl::string_view part : absl::StrSplit(option.get_type_name(), '|')) {
    const bool word =
        !part.empty() &&
        part.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_") == absl::string_view::npos;
    if (word) values.words.emplace_back(part);
    if (absl::StrContains(part, "FILE")) values.files = true;
  }
  return values;
}

// Statements that fill COMPREPLY with what of `words`, and of file names, begins with $cur.
std::string Offer(const std::vector<std::string>& words, bool files) {
  std::string text;
  if (!words.empty()) {
    absl::StrAppend(&text, "COMPREPLY=($(compgen -W '", absl::StrJoin(words, " "),
                    "' -- \"$cur\"))");
  }
  if (files) absl::StrAppend(&text, text.empty() ? "" : "; ", "_laplace_files");
  return text.empty() ? ":" : text;
}

struct Cases {
  std::vector<std::string> verbs;  // patterns of the paths that exist: '" models load"'
  std::string flags;               // by path, what begins with a dash
  std::string values;              // by path and flag, what may follow
  std::string rest;                // by path, anything else
};

void AddFlag(const std::string& path, const CLI::Option& option, std::vector<std::string>& flags,
             Cases& cases) {
  std::vector<std::string> patterns;
  for (const std::string& name : option.get_lnames()) {
    flags.push_back("--" + name);
    patterns.push_back(absl::StrCat("'", path, " --", name, "'"));
  }
  for (const std::string& name : option.get_snames()) {
    patterns.push_back(absl::StrCat("'", path, " -", name, "'"));
  }
  if (option.get_items_expected_max() == 0) return;
  const Values values = ValuesOf(option);
  absl::StrAppend(&cases.values, "    ", absl::StrJoin(patterns, "|"), ") ",
                  Offer(values.words, values.files), "; return 0 ;;\n");
}

void AddCases(const CLI::App& app, const CLI::App& root, const std::string& path, Cases& cases) {
  std::vector<std::string> flags, verbs, words;
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) {
      AddFlag(path, *option, flags, cases);
      continue;
    }
    const Values values = ValuesOf(*option);
    words.insert(words.end(), values.words.begin(), values.words.end());
  }
  if (&app != &root) {
    for (const CLI::Option* option : root.get_options()) {
      const bool own = app.get_option_no_throw(option->get_name()) != nullptr;
      if (!own) AddFlag(path, *option, flags, cases);
    }
  }
  for (const CLI::App* verb : app.get_subcommands(nullptr)) verbs.push_back(verb->get_name());
  words.insert(words.end(), verbs.begin(), verbs.end());
  const std::string pattern = absl::StrCat("    '", path, "') ");
  absl::StrAppend(&cases.flags, pattern, Offer(flags, false), " ;;\n");
  absl::StrAppend(&cases.rest, pattern, Offer(words, false), " ;;\n");
  for (const CLI::App* verb : app.get_subcommands(nullptr)) {
    const std::string below = absl::StrCat(path, " ", verb->get_name());
    cases.verbs.push_back(absl::StrCat("'", below, "'"));
    AddCases(*verb, root, below, cases);
  }
}

constexpr char kFiles[] = R"(_laplace_files() {
  local IFS=$'\n'
  COMPREPLY+=($(compgen -f -- "$cur"))
  compopt -o filenames 2>/dev/null || :
}
)";

struct CompletionOptions {
  std::string shell;
};

}  // namespace

std::string BashCompletion(const CLI::App& app) {
  Cases cases;
  AddCases(app, app, "", cases);
  return absl::StrCat(
      "# Completes laplace in bash: source <(laplace completion bash)\n", kFiles,
      "_laplace() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= i\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case \"$path ${COMP_WORDS[i]}\" in\n"
      "    ",
      absl::StrJoin(cases.verbs, "|"),
      ") path=\"$path ${COMP_WORDS[i]}\" ;;\n"
      "    esac\n"
      "  done\n"
      "  case \"$path $prev\" in\n",
      cases.values,
      "  esac\n"
      "  if [[ $cur == -* ]]; then\n"
      "    case \"$path\" in\n",
      cases.flags,
      "    esac\n"
      "  else\n"
      "    case \"$path\" in\n",
      cases.rest,
      "    esac\n"
      "  fi\n"
      "  return 0\n"
      "}\n"
      "complete -F _laplace laplace\n");
}

std::string ZshCompletion(const CLI::App& app) {
  return absl::StrCat("# In zsh, after compinit: source <(laplace completion zsh)\n",
                      "autoload -U +X bashcompinit && bashcompinit\n", BashCompletion(app));
}

void AddCompletionVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "completion", "Print a script that completes verbs, flags and files in a shell");
  const auto options = std::make_shared<CompletionOptions>();
  OneOf(verb->add_option("SHELL", options->shell, "bash or zsh"), {"bash", "zsh"})->required();
  SetExample(*verb,
             "Example:\n"
             "  laplace completion bash >~/.local/share/bash-completion/completions/laplace\n"
             "\n"
             "Or for one shell only: source <(laplace completion bash)");
  verb->callback([&app, &context, options] {
    context.needs_server = false;
    context.command = [&app, options] {
      Print(options->shell == "bash" ? BashCompletion(app) : ZshCompletion(app));
      return absl::OkStatus();
    };
  });
}

}  // namespace laplace::cli
