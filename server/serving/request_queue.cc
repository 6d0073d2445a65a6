#include "server/serving/request_queue.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "server/serving/compute_profile.h"

namespace laplaced {
namespace {

bool SameShapeOfRows(const ArrayView& a, const ArrayView& b) {
  return a.dtype == b.dtype && a.shape.size() == b.shape.size() &&
         std::equal(a.shape.begin() + 1, a.shape.end(), b.shape.begin() + 1);
}

bool SameOptions(const PendingRequest& a, const PendingRequest& b) {
  if (a.work.index() != b.work.index()) return false;
  return absl::visit(
      [&](const auto& mine) {
        return mine.options == absl::get<std::decay_t<decltype(mine)>>(b.work).options;
      },
      a.work);
}

bool GoTogether(const PendingRequest& a, const PendingRequest& b) {
  return a.request.model == b.request.model && b.batching.divisible && SameOptions(a, b) &&
         SameShapeOfRows(a.request.inputs, b.request.inputs);
}

// Computations are padded to a power of two. Rows beyond the one below are only taken if padding
// wastes at most a quarter.
int64_t GoodSize(int64_t rows) {
  const int64_t padded = PowerOfTwoFrom(rows);
  return 4 * rows >= 3 * padded ? rows : padded / 2;
}

void TrimTo(int64_t rows, std::vector<BatchPart>& parts) {
  int64_t taken = 0;
  size_t kept = 0;
  for (BatchPart& part : parts) {
    if (taken == rows) break;
    part.count = std::min(part.count, rows - taken);
    taken += part.count;
    ++kept;
  }
  parts.resize(kept);
}

}  // namespace

void RequestQueue::Add(PendingPtr pending) {
  Class& all = class_of(pending->request.priority);
  const auto [found, added] = all.clients.try_emplace(pending->request.client);
  Client& client = found->second;
  if (client.requests.empty()) client.clock = std::max(client.clock, all.clock);
  client.backlog += pending->seconds_per_row * static_cast<double>(pending->rows());
  client.requests.push_back(std::move(pending));
  ++all.requests;
  ++untouched_;
}

std::vector<BatchPart> RequestQueue::Next(
    Priority priority, const std::function<int64_t(const PendingRequest&)>& cap) const {
  const Class& all = class_of(priority);
  std::vector<const Client*> clients;
  for (const auto& [unused, client] : all.clients) {
    if (!client.requests.empty()) clients.push_back(&client);
  }
  if (clients.empty()) return {};
  std::stable_sort(clients.begin(), clients.end(),
                   [](const Client* a, const Client* b) { return a->clock < b->clock; });
  const PendingPtr& first = clients[0]->requests.front();
  if (!first->batching.divisible) return {{first, 0, first->rows()}};

  const int64_t most = std::max<int64_t>(1, cap(*first));
  std::vector<BatchPart> parts = {{first, first->next_row, std::min(most, first->rows_left())}};
  int64_t rows = parts[0].count;
  std::vector<size_t> seen(clients.size(), 0);  // requests of each client that were looked at
  seen[0] = 1;
  for (bool any = true; any && rows < most;) {
    any = false;
    // The first client has had its turn.
    for (size_t turn = 1; turn <= clients.size() && rows < most; ++turn) {
      const size_t i = turn % clients.size();
      const auto& waiting = clients[i]->requests;
      while (seen[i] < waiting.size() && !GoTogether(*first, *waiting[seen[i]])) ++seen[i];
      if (seen[i] == waiting.size()) continue;
      const PendingPtr& pending = waiting[seen[i]++];
      parts.push_back({pending, pending->next_row, std::min(most - rows, pending->rows_left())});
      rows += parts.back().count;
      any = true;
    }
  }
  TrimTo(GoodSize(rows), parts);
  return parts;
}

void RequestQueue::Forget(Client& client, const PendingRequest& pending) {
  client.backlog -= pending.seconds_per_row * static_cast<double>(pending.rows_left());
  if (pending.next_row == 0) --untouched_;
}

void RequestQueue::Take(const std::vector<BatchPart>& parts) {
  if (parts.empty()) return;
  Class& all = class_of(parts[0].pending->request.priority);
  all.clock = std::max(all.clock, all.clients[parts[0].pending->request.client].clock);
  for (const BatchPart& part : parts) {
    PendingRequest& pending = *part.pending;
    Client& client = all.clients[pending.request.client];
    if (pending.next_row == 0) --untouched_;
    client.backlog -= pending.seconds_per_row * static_cast<double>(part.count);
    pending.next_row += part.count;
    if (pending.rows_left() > 0) continue;
    client.requests.erase(std::find(client.requests.begin(), client.requests.end(), part.pending));
    --all.requests;
    if (client.requests.empty()) client.backlog = 0;  // no rounding is carried along
  }
}

void RequestQueue::Charge(const PendingRequest& pending, double seconds) {
  Class& all = class_of(pending.request.priority);
  const auto found = all.clients.find(pending.request.client);
  if (found != all.clients.end()) found->second.clock += seconds;
  ForgetIdleClients(all);
}

void RequestQueue::ForgetIdleClients(Class& of) {
  for (auto it = of.clients.begin(); it != of.clients.end();) {
    const Client& client = it->second;
    it = client.requests.empty() && client.clock <= of.clock ? of.clients.erase(it) : std::next(it);
  }
}

double RequestQueue::SecondsAhead(Priority priority, const std::string& client,
                                  double seconds) const {
  double ahead = 0;
  if (priority == Priority::kBulk) {
    for (const auto& [unused, other] : class_of(Priority::kInteractive).clients) {
      ahead += other.backlog;
    }
  }
  const Class& all = class_of(priority);
  const auto found = all.clients.find(client);
  const double mine = found == all.clients.end() ? 0 : found->second.backlog;
  for (const auto& [name, other] : all.clients) {
    // By the time that it is this request's turn, the others have had as much as this client.
    ahead += name == client ? mine : std::min(other.backlog, mine + seconds);
  }
  return ahead;
}

PendingPtr RequestQueue::ToGiveWay(Priority priority, const std::string& client) const {
  const auto newest = [](const Client& of) -> PendingPtr {
    return !of.requests.empty() && of.requests.back()->next_row == 0 ? of.requests.back() : nullptr;
  };
  PendingPtr chosen;
  const auto choose = [&](Priority from, size_t more_than) {
    for (const auto& [unused, other] : class_of(from).clients) {
      if (other.requests.size() <= more_than || newest(other) == nullptr) continue;
      more_than = other.requests.size();
      chosen = newest(other);
    }
  };
  if (priority == Priority::kInteractive) choose(Priority::kBulk, 0);
  if (chosen == nullptr) {
    const Class& all = class_of(priority);
    const auto found = all.clients.find(client);
    choose(priority, (found == all.clients.end() ? 0 : found->second.requests.size()) + 1);
  }
  return chosen;
}

PendingPtr RequestQueue::MakeRoom(Priority priority, const std::string& client) {
  PendingPtr chosen = ToGiveWay(priority, client);
  if (chosen != nullptr) Remove(chosen);
  return chosen;
}

std::vector<PendingPtr> RequestQueue::RemoveIf(
    const std::function<bool(const PendingRequest&)>& condition) {
  std::vector<PendingPtr> removed;
  for (Class& all : classes_) {
    for (auto& [unused, client] : all.clients) {
      const auto end =
          std::stable_partition(client.requests.begin(), client.requests.end(),
                                [&](const PendingPtr& pending) { return !condition(*pending); });
      for (auto it = end; it != client.requests.end(); ++it) {
        Forget(client, **it);
        --all.requests;
        removed.push_back(*it);
      }
      client.requests.erase(end, client.requests.end());
    }
    ForgetIdleClients(all);
  }
  return removed;
}

std::vector<PendingPtr> RequestQueue::RemoveDead() {
  return RemoveIf(
      [](const PendingRequest& pending) { return !pending.request.context->Check().ok(); });
}

std::vector<PendingPtr> RequestQueue::RemoveAll() {
  return RemoveIf([](const PendingRequest&) { return true; });
}

void RequestQueue::Remove(const PendingPtr& pending) {
  RemoveIf([&](const PendingRequest& other) { return &other == pending.get(); });
}

}  // namespace laplaced
