#include "tests/bench/paper/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace laplaced::paper {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  F=/usr/share/datasets/fashion-mnist\n"
    "  paper_curvature --model tests/data/fashion_cnn --data $F/train-images-idx3-ubyte.gz \\\n"
    "      --labels $F/train-labels-idx1-ubyte.gz --out out/fashion_cnn\n"
    "  paper_curvature --quick --model FOLDER --early EARLY --data train_images.npy \\\n"
    "      --labels train_labels.npy --out out/resnet20\n"
    "\n"
    "--quick is a small version for trying: smaller defaults, which other options still override.";

// Smaller wherever the user has said nothing.
void MakeQuick(const CLI::App& app, Options& o) {
  const auto set = [&](const char* flag, auto& value, auto small) {
    if (app.count(flag) == 0) value = small;
  };
  set("--batch-sizes", o.batch_sizes, std::vector<int64_t>{32, 128});
  set("--rank", o.rank, int64_t{8});
  set("--b2", o.b2, int64_t{192});
  set("--d-size", o.d_size, int64_t{512});
  set("--cg-b1", o.cg_b1, int64_t{64});
  set("--cg-b2", o.cg_b2, int64_t{64});
  set("--cg-steps", o.cg_steps, int64_t{8});
  set("--oracle-size", o.oracle_size, int64_t{256});
  set("--cut-points", o.cut_points, int64_t{5});
  set("--tolerance", o.tolerance, 1e-2);
  set("--dampings", o.dampings, std::vector<double>{0});
  set("--cut-examples", o.cut_examples, int64_t{128});
}

}  // namespace

void Die(const std::string& message) {
  std::fprintf(stderr, "paper_curvature: %s\n", message.c_str());
  std::exit(1);
}

Options ParseOptions(int argc, char** argv) {
  Options o;
  CLI::App app("Measures how curvature and slopes of mini-batches deceive, as CSV files.",
               "paper_curvature");
  app.footer(kFooter);
  app.get_formatter()->column_width(34);
  app.add_option("--model", o.model, "Folder with model.pt and model.json")->required();
  app.add_option("--data", o.data, "Inputs that it was trained on: .npy or IDX")->required();
  app.add_option("--labels", o.labels, "Their targets, likewise")->required();
  app.add_option("--out", o.out, "Folder for the files")->required();
  app.add_option("--name", o.name, "Of the network, in the files (default the folder's)");
  app.add_option("--early", o.early,
                 "Folder of an early checkpoint of the same network, for conjugate gradients "
                 "(default: trained here, which needs a network without batch norm)");
  app.add_option("--seeds", o.seeds, "Repetitions, each with batches of its own")
      ->capture_default_str();
  app.add_option("--batch-sizes", o.batch_sizes, "|B1|, which choose directions")
      ->capture_default_str()
      ->delimiter(',');
  app.add_option("--b2", o.b2, "|B2|, which measures along them")->capture_default_str();
  app.add_option("--d-size", o.d_size, "Examples of D, which stands for the truth")
      ->capture_default_str();
  app.add_option("--rank", o.rank, "Directions of each B1")->capture_default_str();
  app.add_option("--tolerance", o.tolerance, "Of Lanczos")->capture_default_str();
  app.add_option("--cg-b1", o.cg_b1, "|B1| of conjugate gradients (C7)")->capture_default_str();
  app.add_option("--cg-b2", o.cg_b2, "|B2| of conjugate gradients (C7)")->capture_default_str();
  app.add_option("--cg-steps", o.cg_steps, "Steps of conjugate gradients")->capture_default_str();
  app.add_option("--dampings", o.dampings, "Of conjugate gradients (C7)")
      ->capture_default_str()
      ->delimiter(',');
  app.add_option("--oracle-size", o.oracle_size, "Examples of the oracle (C7)")
      ->capture_default_str();
  app.add_option("--early-steps", o.early_steps, "SGD steps of an early checkpoint made here")
      ->capture_default_str();
  app.add_option("--cut-points", o.cut_points, "Points on each side of a 2-D cut")
      ->capture_default_str();
  app.add_option("--cut-examples", o.cut_examples, "Of D, for the true loss in the cut; 0: none")
      ->capture_default_str();
  app.add_option("--parts", o.parts, "spectra (C1-C4, C6), slopes (C5), cg (C7)")
      ->capture_default_str()
      ->delimiter(',')
      ->check(CLI::IsMember({"spectra", "slopes", "cg"}));
  app.add_option("--threads", o.threads, "0: the CPU quota")->capture_default_str();
  app.add_flag("--quick", o.quick, "A small version: see below");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  if (o.quick) MakeQuick(app, o);
  for (const int64_t least : {o.seeds - 2, o.rank - 1, o.b2, o.d_size - 63, o.cg_b1, o.cg_b2,
                              o.cg_steps, o.oracle_size, o.early_steps, o.cut_points - 1}) {
    if (least < 1) {
      Die("expected at least 3 seeds, rank 2, d-size 64, 2 cut-points, and 1 of everything else");
    }
  }
  if (o.cut_examples < 0 || o.cut_examples > o.d_size) Die("--cut-examples: expected 0 to d-size");
  if (o.batch_sizes.empty() || *std::min_element(o.batch_sizes.begin(), o.batch_sizes.end()) < 1) {
    Die("--batch-sizes: expected positive numbers");
  }
  if (o.name.empty()) {
    std::filesystem::path folder = std::filesystem::path(o.model).lexically_normal();
    if (folder.filename().empty()) folder = folder.parent_path();
    o.name = folder.filename().string();
  }
  std::error_code error;
  std::filesystem::create_directories(o.out, error);
  if (error) Die("--out: " + o.out + ": " + error.message());
  return o;
}

}  // namespace laplaced::paper
