#include <string>

#include "absl/strings/str_cat.h"
#include "server/model/architectures/families.h"

namespace laplaced {

Value WriteLenet(const Architecture& architecture, ForwardWriter& writer) {
  const auto there = [&](const std::string& layer) { return writer.Has(layer + ".weight"); };
  Value x = writer.input();
  int64_t n = 1;
  do {
    ConvOptions options;
    if (n == 1) options.padding = architecture.first_padding;
    x = writer.Conv(x, absl::StrCat("conv", n), options);
    x = writer.Pool(writer.Activate(x, architecture.activation), architecture.pool, 2, 2);
  } while (there(absl::StrCat("conv", ++n)));
  x = writer.Flatten(x);
  for (n = 1; there(absl::StrCat("fc", n + 1)); ++n) {
    x = writer.Activate(writer.Linear(x, absl::StrCat("fc", n)), architecture.activation);
  }
  return writer.Linear(x, absl::StrCat("fc", n), writer.n_outputs());
}

}  // namespace laplaced
