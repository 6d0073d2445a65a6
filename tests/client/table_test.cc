#include "client/cli/table.h"

#include <gtest/gtest.h>

namespace laplace::cli {
namespace {

TEST(TableTest, AlignsByCharactersAndLeavesNoTrailingBlanks) {
  Table table({{"NAME"}, {"COUNT", Table::Align::kRight}, {"NOTE"}});
  table.AddRow({"Mütze", "7", "x"});
  table.AddRow({"cap", "1,000"});
  EXPECT_EQ(table.ToString(),
            "NAME   COUNT  NOTE\n"
            "Mütze      7  x\n"
            "cap    1,000\n");
}

TEST(TableTest, ProbabilitiesNeverClaimCertainty) {
  EXPECT_EQ(Probability(0.98349), "0.983");
  EXPECT_EQ(Probability(0.99999), ">0.999");
  EXPECT_EQ(Probability(0.0000001), "<0.001");
  EXPECT_EQ(Probability(1), "1.000");
  EXPECT_EQ(Probability(0), "0.000");
}

TEST(TableTest, NumbersReadEasily) {
  EXPECT_EQ(Count(0), "0");
  EXPECT_EQ(Count(999), "999");
  EXPECT_EQ(Count(1234567), "1,234,567");
  EXPECT_EQ(Count(-123456), "-123,456");
  EXPECT_EQ(Seconds(0.85), "850 ms");
  EXPECT_EQ(Seconds(200), "3 min 20 s");
  EXPECT_EQ(Seconds(7260), "2 h 1 min");
  EXPECT_EQ(Percent(0.0421), "4.2 %");
  EXPECT_EQ(Bytes(0), "0 B");
  EXPECT_EQ(Bytes(1023), "1023 B");
  EXPECT_EQ(Bytes(1536), "1.5 KiB");
  EXPECT_EQ(Bytes(int64_t{500} << 20), "500 MiB");
  EXPECT_EQ(Bytes(int64_t{3} << 40), "3.0 TiB");
  EXPECT_EQ(Bytes(int64_t{5} << 50), "5120 TiB");
  EXPECT_EQ(ShortHash("sha256-0123456789abcdef"), "sha256-0123456789ab");
}

TEST(TableTest, ZeroHasNoSign) {
  EXPECT_EQ(Number(-0.0), "0");
  EXPECT_EQ(Number(0), "0");
  EXPECT_EQ(Number(-0.5), "-0.5");
}

TEST(TableTest, LongTextIsShortenedToOneLine) {
  EXPECT_EQ(Shortened("as it is", 8), "as it is");
  EXPECT_EQ(Shortened(" two\n\nlines\there ", 20), "two lines here");
  EXPECT_EQ(Shortened("a bit too long", 10), "a bit t...");
  EXPECT_EQ(Shortened("a bit too long", 9), "a bit...");
  EXPECT_EQ(Shortened("\u00e4\u00f6\u00fc\u00e4\u00f6", 4), "\u00e4...");
  EXPECT_EQ(Shortened("", 4), "");
}

TEST(TableTest, MarkdownKeepsAlignmentAndEscapesBars) {
  Table table({{"A"}, {"B", Table::Align::kRight}});
  table.AddRow({"x|y", "1"});
  table.AddRow({"two\nlines"});
  EXPECT_EQ(table.ToMarkdown(), "| A | B |\n|---|---:|\n| x\\|y | 1 |\n| two lines |  |\n");
}

}  // namespace
}  // namespace laplace::cli
