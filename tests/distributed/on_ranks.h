// Several ranks as threads of the test.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "server/distributed/gloo_ranks.h"

namespace laplaced {

// What `body(ranks)` returns on each of `size` ranks.
template <typename Result, typename Body>
std::vector<Result> OnRanks(int64_t size, Body&& body,
                            std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
  std::vector<std::unique_ptr<Result>> results(size);
  const MeetingPoint first = MeetingPoint::InProcess(nullptr, 0, size);
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      const MeetingPoint mine = MeetingPoint::InProcess(&first, r, size);
      auto ranks = mine.Join("test", std::chrono::seconds(60), timeout);
      if (!ranks.ok()) {
        ADD_FAILURE() << ranks.status();
        return;
      }
      results[r] = std::make_unique<Result>(body(**ranks));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<Result> out;
  for (auto& result : results) {
    if (result == nullptr) return {};
    out.push_back(std::move(*result));
  }
  return out;
}

}  // namespace laplaced
