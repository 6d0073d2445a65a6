#include "server/offline/same_fit.h"

#include <string>

#include "server/linalg/status_macros.h"
#include "server/registry/sealed_json.h"
#include "server/serving/fit_crew.h"
#include "server/serving/fit_identity.h"

namespace laplaced {

absl::Status CheckSameFit(const FitCommand& command, const FitRequest& request,
                          const LoadedModel& model, const Ranks& ranks) {
  if (ranks.size() == 1) return absl::OkStatus();
  Json options = Json::parse(EncodeFitRequest(request));
  options["resume"] = command.resume;
  FitIdentity mine = IdentityOf(model, request);
  mine.request = options.dump();
  std::string text = EncodeFitIdentity(mine);
  LAPLACED_RETURN_IF_ERROR(BroadcastText(ranks, text));
  const auto first = DecodeFitIdentity(text);
  return FirstError(ranks, first.ok() ? CheckSameFit(*first, mine) : first.status());
}

}  // namespace laplaced
