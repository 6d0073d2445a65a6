#include "server/app/model_health.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace laplaced {
namespace {

constexpr char kPrefix[] = "models/";

}  // namespace

void ModelHealth::Update(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (service_ == nullptr) return;
  std::set<int64_t> now;
  for (const int64_t version : host_->LoadedVersions(name)) {
    const auto model = host_->Pin(name, version);
    if (model.ok() && !(*model)->posterior_id().empty()) now.insert(version);
  }
  std::set<int64_t>& before = serving_[name];
  const auto say = [&](int64_t version, bool serving) {
    service_->SetServingStatus(absl::StrCat(kPrefix, name, "/", version), serving);
  };
  for (const int64_t version : before) {
    if (now.count(version) == 0) say(version, false);
  }
  for (const int64_t version : now) {
    if (before.count(version) == 0) say(version, true);
  }
  service_->SetServingStatus(absl::StrCat(kPrefix, name), !now.empty());
  before = std::move(now);
}

void ModelHealth::Begin(const ModelHost& host, grpc::HealthCheckServiceInterface& service) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    host_ = &host;
    service_ = &service;
  }
  for (const ModelInfo& model : host.Tried()) {
    if (model.state == ModelState::kReady) Update(model.name);
  }
}

void ModelHealth::End() {
  std::lock_guard<std::mutex> lock(mutex_);
  service_ = nullptr;
}

}  // namespace laplaced
