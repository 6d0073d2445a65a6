// The options of paper_curvature.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace laplaced::paper {

struct Options {
  std::string model;         // folder with model.pt and model.json
  std::string name;          // in the tables; empty: the folder's
  std::string early;         // folder of an early checkpoint; empty: made here
  std::string data, labels;  // files
  std::string out;
  std::vector<int64_t> batch_sizes = {64, 256, 1024};
  int64_t seeds = 3;
  int64_t rank = 20;
  int64_t b2 = 1024;
  int64_t d_size = 4096;
  int64_t cg_b1 = 256, cg_b2 = 256;
  int64_t cg_steps = 25;
  std::vector<double> dampings = {0, 0.01};
  int64_t oracle_size = 4096;
  int64_t early_steps = 200;
  int64_t cut_points = 13;      // on each side of a 2-D cut
  int64_t cut_examples = 1024;  // of D, for the true loss there; 0: none
  double tolerance = 1e-3;      // of Lanczos
  int64_t threads = 0;
  std::vector<std::string> parts = {"spectra", "slopes", "cg"};
  bool quick = false;
};

// Ends the program with a message if they make no sense, and with the help if it is asked for.
Options ParseOptions(int argc, char** argv);

[[noreturn]] void Die(const std::string& message);

}  // namespace laplaced::paper
