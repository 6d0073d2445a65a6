// laplace token
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/cli/context.h"
#include "formats/sha256.h"

namespace laplace::cli {
namespace {

struct TokenOptions {
  std::string name;
  std::string role = "predict";
};

absl::StatusOr<std::string> NewToken() {
  char bytes[32];
  std::ifstream random("/dev/urandom", std::ios::binary);
  if (!random.read(bytes, sizeof bytes)) return absl::UnavailableError("cannot read /dev/urandom");
  return absl::WebSafeBase64Escape(absl::string_view(bytes, sizeof bytes));
}

absl::Status Make(const Context& context, const TokenOptions& options) {
  const absl::StatusOr<std::string> token = NewToken();
  if (!token.ok()) return token.status();
  const Json entry = {
      {"name", options.name}, {"role", options.role}, {"sha256", laplaced::Sha256Hex(*token)}};
  if (context.json) {
    Print(Json{{"token", *token}, {"entry", entry}});
    return absl::OkStatus();
  }
  Print(absl::StrCat("token, for the client (it is shown only here):\n  ", *token,
                     "\nentry, for \"tokens\" in the file of laplaced --tokens:\n  ", entry.dump(),
                     "\n"));
  return absl::OkStatus();
}

}  // namespace

void AddTokenVerb(CLI::App& app, Context& context) {
  CLI::App* verb =
      app.add_subcommand("token", "Make a bearer token, and what a server keeps of it");
  const auto options = std::make_shared<TokenOptions>();
  verb->add_option("NAME", options->name, "Who will show it; appears in the server's log")
      ->required();
  AddChoice(*verb, "--role", options->role, {"predict", "admin"},
            "predict: predictions, scores and looking; admin: everything (default predict)");
  SetExample(*verb,
             "Example:\n"
             "  laplace token pipeline --role predict\n"
             "  laplace score fashion_cnn --input new.npy --token-file pipeline.token");
  verb->callback([&context, options] {
    context.needs_server = false;
    context.command = [&context, options] { return Make(context, *options); };
  });
}

}  // namespace laplace::cli
