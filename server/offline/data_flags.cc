#include "server/offline/data_flags.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "formats/dataset_id.h"

namespace laplaced {
namespace {

// As the API's names are spelled.
std::string Underscored(std::string word) {
  std::replace(word.begin(), word.end(), '-', '_');
  return word;
}

}  // namespace

void AddDataFlags(CLI::App& app, const std::string& flag, const std::string& what, bool required,
                  DataFlags& flags) {
  CLI::Option* data =
      app.add_option(flag, flags.data,
                     what +
                         ": the id of a data set in the registry, a .npz with x and y, or two "
                         "files (.npy, IDX) for inputs and targets, which are put into the "
                         "registry first")
          ->type_name("ID|FILE[,FILE]")
          ->required(required)
          ->group("Data");
  app.add_option(flag + "-rows", flags.rows,
                 absl::StrCat("Only these rows of the files, END excluded"))
      ->type_name("BEGIN:END")
      ->needs(data)
      ->group("Data");
}

absl::Status ReadData(const std::string& flag, const DataFlags& flags, std::string& id,
                      absl::optional<DataFiles>& files) {
  if (flags.data.empty()) return absl::OkStatus();
  if (IsDatasetId(flags.data)) {
    if (!flags.rows.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, "-rows: only files can be cut, not a data set in the registry"));
    }
    id = flags.data;
    return absl::OkStatus();
  }
  const std::vector<std::string> paths = absl::StrSplit(flags.data, ',');
  if (paths.size() > 2 || std::count(paths.begin(), paths.end(), "") > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": expected an id sha256-..., FILE or FILE,FILE, got ", flags.data));
  }
  files.emplace();
  files->inputs = paths[0];
  if (paths.size() == 2) files->targets = paths[1];
  if (flags.rows.empty()) return absl::OkStatus();
  const std::vector<std::string> ends = absl::StrSplit(flags.rows, ':');
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, "-rows: expected BEGIN:END with BEGIN before END, such as 0:50000, got ",
                     flags.rows));
  };
  if (ends.size() != 2) return bad();
  if (!ends[0].empty() && (!absl::SimpleAtoi(ends[0], &files->begin) || files->begin < 0)) {
    return bad();
  }
  if (!ends[1].empty() && (!absl::SimpleAtoi(ends[1], &files->end) || files->end <= files->begin)) {
    return bad();
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const std::string& text, std::string& model, int64_t& version) {
  const std::vector<std::string> parts = absl::StrSplit(text, '/');
  if (parts.size() > 2 || parts[0].empty() ||
      (parts.size() == 2 && (!absl::SimpleAtoi(parts[1], &version) || version < 1))) {
    return absl::InvalidArgumentError(
        absl::StrCat("MODEL: expected NAME or NAME/VERSION, got ", text));
  }
  model = parts[0];
  return absl::OkStatus();
}

void AddWord(CLI::App& app, const std::string& flag, std::string& value,
             std::vector<std::string> words, const std::string& description,
             const std::string& group) {
  app.add_option_function<std::string>(
         flag, [&value](const std::string& word) { value = Underscored(word); }, description)
      ->check(CLI::IsMember(std::move(words)))
      ->group(group);
}

}  // namespace laplaced
