// An evaluation as text for people, as Markdown, and as JSON. Free functions; thread-safe.
#pragma once

#include <string>

#include "client/cli/context.h"
#include "client/cli/evaluation.h"

namespace laplace::cli {

enum class TextForm { kTable, kMarkdown };

std::string EvaluationText(const Evaluation& evaluation, TextForm form);

// Every figure at full precision; an estimate is {"value", "interval": [lower, upper]}, without the
// interval if there is none.
Json ToJson(const Evaluation& evaluation);

}  // namespace laplace::cli
