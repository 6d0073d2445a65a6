// The requests that wait for the compute thread, and who is next.
//
// Interactive requests go before bulk ones. Within a class the clients take turns: each has a clock
// that runs with the compute time it is charged, and the client whose clock is behind goes first; a
// client that comes back after a pause starts at the present, so neither a flood of requests nor
// large ones keep others waiting, and nobody saves up. One client's requests keep their order,
// except that a later one may be computed along with somebody else's batch. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "server/serving/pending_request.h"

namespace laplaced {

// Rows [begin, begin + count) of a request.
struct BatchPart {
  PendingPtr pending;
  int64_t begin = 0;
  int64_t count = 0;
};

class RequestQueue {
 public:
  void Add(PendingPtr pending);

  bool empty(Priority priority) const { return class_of(priority).requests == 0; }
  // Requests of which no row has been taken.
  int64_t untouched() const { return untouched_; }

  // The rows to compute next, of one model with the same options: at most `cap` of the first
  // request, rows. None if no request of the class waits. The rest of a request that is taken in
  // part keeps its place.
  std::vector<BatchPart> Next(Priority priority,
                              const std::function<int64_t(const PendingRequest&)>& cap) const;
  // Rows that Next has named leave the queue. REQUIRES: nothing has changed in between.
  void Take(const std::vector<BatchPart>& parts);
  void Charge(const PendingRequest& pending, double seconds);

  // Estimated seconds of computing before a request of `client` that takes `seconds` would begin.
  double SecondsAhead(Priority priority, const std::string& client, double seconds) const;

  // Makes room for a request of `client`: takes out the newest request, not begun, of a client that
  // has more waiting than this one, bulk requests first for an interactive one. Null if there is
  // none.
  PendingPtr MakeRoom(Priority priority, const std::string& client);
  bool CanMakeRoom(Priority priority, const std::string& client) const {
    return ToGiveWay(priority, client) != nullptr;
  }

  // Takes out requests that nobody waits for any more, or all.
  std::vector<PendingPtr> RemoveDead();
  std::vector<PendingPtr> RemoveAll();
  // Takes out one request, if it is there.
  void Remove(const PendingPtr& pending);

 private:
  struct Client {
    std::deque<PendingPtr> requests;
    double clock = 0;    // seconds charged
    double backlog = 0;  // estimated seconds
  };
  struct Class {
    std::map<std::string, Client> clients;
    double clock = 0;  // of the client that went last
    int64_t requests = 0;
  };

  Class& class_of(Priority p) { return classes_[p == Priority::kBulk ? 1 : 0]; }
  const Class& class_of(Priority p) const { return classes_[p == Priority::kBulk ? 1 : 0]; }
  PendingPtr ToGiveWay(Priority priority, const std::string& client) const;
  std::vector<PendingPtr> RemoveIf(const std::function<bool(const PendingRequest&)>& condition);
  void Forget(Client& client, const PendingRequest& pending);
  static void ForgetIdleClients(Class& of);

  std::array<Class, 2> classes_;
  int64_t untouched_ = 0;
};

}  // namespace laplaced
