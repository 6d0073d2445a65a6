// What the command line is in a shell: examples in --help that it takes, completion, the
// configuration file, and what it draws on a terminal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tests/client/command_fixture.h"

namespace laplace::client {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

// Of a help page: the first words of the lines of a section.
std::vector<std::string> Verbs(const std::string& page) {
  std::vector<std::string> verbs;
  bool inside = false;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(page, '\n'))) {
    if (line == "Verbs:") {
      inside = true;
    } else if (line.empty()) {
      inside = false;
    } else if (inside && line.size() > 2 && line[2] != ' ') {
      verbs.push_back(line.substr(2, line.find(' ', 2) - 2));
    }
  }
  return verbs;
}

// Its example commands, each in one line and without "laplace " in front.
std::vector<std::string> ExampleCommands(const std::string& page) {
  std::vector<std::string> commands;
  const size_t at = page.find("Example:\n");
  if (at == std::string::npos) return commands;
  const std::string text = absl::StrReplaceAll(page.substr(at), {{"\\\n", ""}});
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(text, '\n'))) {
    const std::string before = "  laplace ";
    if (line.compare(0, before.size(), before) != 0) continue;
    commands.push_back(line.substr(before.size(), line.find_first_of("&|>", 10) - before.size()));
  }
  return commands;
}

class ShellCommand : public Command {
 protected:
  // Every verb and verb of a verb, the root as "".
  std::vector<std::string> Pages(const std::string& path = "") const {
    std::vector<std::string> pages = {path};
    for (const std::string& verb : Verbs(Run(path + " --help").out)) {
      const auto below = Pages(path.empty() ? verb : absl::StrCat(path, " ", verb));
      pages.insert(pages.end(), below.begin(), below.end());
    }
    return pages;
  }

  // What bash offers for the last of `words`; the first is "laplace".
  std::vector<std::string> Complete(const std::vector<std::string>& words) const {
    const std::string script = folder_ + "/complete.sh";
    std::ofstream file(script);
    file << "set -e\nsource <(" << LAPLACE_COMMAND << " completion bash)\nCOMP_WORDS=(";
    for (const std::string& word : words) file << "'" << word << "' ";
    file << ")\nCOMP_CWORD=" << words.size() - 1
         << "\ncomplete -p laplace | grep -q _laplace\n_laplace || exit 3\n"
            "for word in \"${COMPREPLY[@]}\"; do echo \"$word\"; done\n";
    file.close();
    const Outcome outcome = Shell("bash --norc " + script);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    std::vector<std::string> offered = absl::StrSplit(outcome.out, '\n', absl::SkipEmpty());
    return offered;
  }

  // Without a server in the environment, unless `environment` has one.
  Outcome RunWith(const std::string& environment, const std::string& arguments) const {
    return Shell(
        absl::StrCat("env -u LAPLACE_SERVER ", environment, " ", LAPLACE_COMMAND, " ", arguments));
  }

  std::string WriteConfig(const std::string& json, const std::string& name = "config.json") const {
    std::filesystem::create_directories(folder_ + "/laplace");
    const std::string path = absl::StrCat(folder_, "/laplace/", name);
    std::ofstream(path) << json;
    return path;
  }
};

TEST_F(ShellCommand, EveryHelpPageHasAnExampleThatIsNoMistake) {
  const std::vector<std::string> pages = Pages();
  EXPECT_THAT(pages, IsSupersetOf({"", "fit", "posterior rm", "completion"}));
  for (const std::string& page : pages) {
    const std::vector<std::string> commands = ExampleCommands(Run(page + " --help").out);
    ASSERT_FALSE(commands.empty()) << page;
    EXPECT_EQ(commands[0].compare(0, page.size(), page), 0) << page << ": " << commands[0];
    for (const std::string& command : commands) {
      // Other servers of this machine are left alone.
      const Outcome outcome =
          Run(absl::StrReplaceAll(command, {{"127.0.0.1:8033", server_.address()}}));
      EXPECT_NE(outcome.exit_code, 2) << command << "\n" << outcome.err;
    }
  }
}

TEST_F(ShellCommand, HelpSaysWhatExitCodesMean) {
  const std::string page = Run("--help").out;
  EXPECT_THAT(page, AllOf(HasSubstr("\n  0  done\n"), HasSubstr("\n  1  the server refused"),
                          HasSubstr("\n  2  the command line makes no sense\n"),
                          HasSubstr("\n  3  a check does not hold")));
}

TEST_F(ShellCommand, BashCompletesVerbsFlagsAndWords) {
  EXPECT_THAT(Complete({"laplace", "post"}), ElementsAre("posterior"));
  EXPECT_THAT(Complete({"laplace", "posterior", "a"}), ElementsAre("activate"));
  EXPECT_THAT(Complete({"laplace", "posterior", "calibrate", "digits", "--target"}),
              ElementsAre("--target-id-rate"));
  EXPECT_THAT(Complete({"laplace", "fit", "digits", "--structure", "k"}), ElementsAre("kfac"));
  EXPECT_THAT(Complete({"laplace", "--output", "json", "models", "u"}), ElementsAre("unload"));
  EXPECT_THAT(Complete({"laplace", "models", "ls", "--output", ""}), ElementsAre("table", "json"));
  EXPECT_THAT(Complete({"laplace", "completion", "z"}), ElementsAre("zsh"));
  EXPECT_THAT(Complete({"laplace", "models", "ls", "--tls-s"}), ElementsAre("--tls-server-name"));
  EXPECT_THAT(Complete({"laplace", "models", "ls", "--structure"}), ElementsAre());
}

TEST_F(ShellCommand, BashCompletesFilesWhereFilesGo) {
  std::ofstream(folder_ + "/two words.npz") << "x";
  const std::string begin = folder_ + "/two";
  EXPECT_THAT(Complete({"laplace", "predict", "digits", "--input", begin}),
              ElementsAre(folder_ + "/two words.npz"));
  EXPECT_THAT(Complete({"laplace", "predict", "digits", "--limit", begin}), ElementsAre());
}

// Whatever --help lists is completed: both come from one tree.
TEST_F(ShellCommand, BashCompletesEveryVerb) {
  for (const std::string& page : Pages()) {
    const std::vector<std::string> verbs = Verbs(Run(page + " --help").out);
    std::vector<std::string> words = {"laplace"};
    for (const auto& word : absl::StrSplit(page, ' ', absl::SkipEmpty())) words.emplace_back(word);
    words.push_back("");
    if (verbs.empty()) continue;
    EXPECT_EQ(Complete(words), verbs) << page;
  }
}

TEST_F(ShellCommand, TheScriptForZshIsThatOfBashAndItsPrelude) {
  EXPECT_EQ(Run("completion zsh").out, absl::StrCat("# In zsh, after compinit: source <(laplace "
                                                    "completion zsh)\nautoload -U +X "
                                                    "bashcompinit && bashcompinit\n",
                                                    Run("completion bash").out));
}

TEST_F(ShellCommand, FlagGoesBeforeEnvironmentBeforeFile) {
  const std::string here = server_.address();
  const std::string nowhere = "127.0.0.1:1";
  WriteConfig(absl::StrCat(R"({"server": ")", here, R"("})"));
  EXPECT_EQ(RunWith("", "models ls").exit_code, 0);
  EXPECT_EQ(RunWith("LAPLACE_SERVER=" + nowhere, "models ls").exit_code, 1);
  EXPECT_EQ(RunWith("", "models ls --server " + nowhere).exit_code, 1);
  WriteConfig(absl::StrCat(R"({"server": ")", nowhere, R"("})"));
  EXPECT_THAT(RunWith("", "models ls").err, HasSubstr(nowhere));
  EXPECT_EQ(RunWith("LAPLACE_SERVER=" + here, "models ls").exit_code, 0);
  EXPECT_EQ(RunWith("LAPLACE_SERVER=" + nowhere, "models ls --server " + here).exit_code, 0);
}

TEST_F(ShellCommand, TheFileIsNamedByFlagOrEnvironmentAndMustExistThen) {
  WriteConfig(R"({"server": "127.0.0.1:1"})");
  const std::string other =
      WriteConfig(absl::StrCat(R"({"server": ")", server_.address(), R"("})"), "other.json");
  EXPECT_EQ(RunWith("", "models ls").exit_code, 1);
  EXPECT_EQ(RunWith("", "models ls --config " + other).exit_code, 0);
  EXPECT_EQ(RunWith("LAPLACE_CONFIG=" + other, "models ls").exit_code, 0);
  EXPECT_EQ(RunWith("LAPLACE_CONFIG=/nowhere", "models ls --config " + other).exit_code, 0);
  const Outcome missing = RunWith("", "models ls --config /nowhere/c.json");
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/nowhere/c.json"));
}

TEST_F(ShellCommand, MistakesInTheFileAreNamed) {
  const struct {
    const char* json;
    const char* error;
  } cases[] = {{R"({"sever": "x:1"})", "there is no setting 'sever'; expected some of server, "},
               {R"({"tls": "yes"})", "tls: expected true or false, got \"yes\""},
               {R"({"server": 8033})", "server: expected a string, got 8033"},
               {R"({"ca_cert": ""})", "ca_cert: expected a string that is not empty"},
               {R"(["server"])", "expected a JSON object"},
               {"server: x", "expected JSON"}};
  for (const auto& one : cases) {
    const std::string path = WriteConfig(one.json);
    const Outcome outcome = Run("models ls");
    EXPECT_EQ(outcome.exit_code, 1) << one.json;
    EXPECT_THAT(outcome.err, AllOf(HasSubstr(path), HasSubstr(one.error)));
    EXPECT_EQ(Run("completion bash").exit_code, 0) << "a shell starts with any file";
  }
}

TEST_F(ShellCommand, FilesLieBesideTheConfigurationFile) {
  WriteConfig(R"({"token_file": "laplace.token", "tls": false})");
  const Outcome missing = Run("models ls");
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr(folder_ + "/laplace/laplace.token"));
  std::ofstream(folder_ + "/laplace/laplace.token") << "secret\n";
  EXPECT_EQ(Run("models ls").exit_code, 0);
  // A token in the environment goes before a file that only the configuration names.
  std::filesystem::remove(folder_ + "/laplace/laplace.token");
  EXPECT_EQ(RunWith("LAPLACE_TOKEN=t LAPLACE_SERVER=" + server_.address(), "models ls").exit_code,
            0);
  WriteConfig(R"({"ca_cert": "/nowhere/ca.pem"})");
  EXPECT_THAT(Run("models ls").err, HasSubstr("/nowhere/ca.pem"));
}

TEST_F(ShellCommand, DrawsOnATerminalUnlessToldNotTo) {
  // script(1) makes a terminal.
  const auto fit_on_terminal = [&](const std::string& environment) {
    ScriptASuccess();
    return Shell(absl::StrCat("env -u NO_COLOR TERM=xterm ", environment,
                              " LAPLACE_SERVER=", server_.address(), " script -qec '",
                              LAPLACE_COMMAND, " fit digits --train ", DataFile(), "' /dev/null"))
        .out;
  };
  EXPECT_THAT(fit_on_terminal(""), AllOf(HasSubstr("\x1b["), HasSubstr("[####")));
  EXPECT_THAT(fit_on_terminal("NO_COLOR="), HasSubstr("\x1b["));
  for (const char* plain : {"NO_COLOR=1", "TERM=dumb"}) {
    EXPECT_THAT(fit_on_terminal(plain), AllOf(HasSubstr("40 %"), Not(HasSubstr("\x1b["))));
  }
}

}  // namespace
}  // namespace laplace::client
