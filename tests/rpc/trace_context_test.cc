#include "server/rpc/trace_context.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";

std::string Parent(const std::string& version, const std::string& rest = "") {
  return version + "-" + kTrace + "-00f067aa0ba902b7-01" + rest;
}

TEST(TraceContextTest, TakesTheTraceId) {
  EXPECT_EQ(TraceIdOf(Parent("00")), kTrace);
  EXPECT_EQ(TraceIdOf(Parent("01")), kTrace);
  EXPECT_EQ(TraceIdOf(Parent("01", "-more")), kTrace);
}

TEST(TraceContextTest, TakesNothingFromWhatIsNoTraceParent) {
  const std::string zeros(32, '0'), good = Parent("00");
  for (const std::string& text :
       {std::string(), std::string("00"), Parent("ff"), Parent("0G"), Parent("00", "-more"),
        Parent("01", "more"), good.substr(1), good.substr(0, good.size() - 1),
        "00-" + zeros + "-00f067aa0ba902b7-01",
        std::string("00-") + kTrace + "-0000000000000000-01",
        std::string("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
        std::string("00_") + kTrace + "-00f067aa0ba902b7-01"}) {
    EXPECT_EQ(TraceIdOf(text), "") << text;
  }
}

TEST(TraceContextTest, RequestIdsAreFitForLogs) {
  EXPECT_TRUE(IsRequestId("a-1_b.c:/+=@Z"));
  EXPECT_TRUE(IsRequestId(std::string(128, 'x')));
  EXPECT_TRUE(IsRequestId(NewRequestId()));
  EXPECT_NE(NewRequestId(), NewRequestId());
  for (const std::string& text : {std::string(), std::string(129, 'x'), std::string("a b"),
                                  std::string("a\nb"), std::string("\"")}) {
    EXPECT_FALSE(IsRequestId(text)) << text;
  }
}

}  // namespace
}  // namespace laplaced
