#include "server/registry/registry_lock.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::NamesIn;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class RegistryLockTest : public ::testing::Test {
 protected:
  TempFolder temp_;
  const std::string root_ = temp_.File("registry");
};

TEST_F(RegistryLockTest, IsHeldByOneAtATime) {
  auto first = RegistryLock::Take(root_);
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(NamesIn(root_), ElementsAre(".lock"));
  EXPECT_THAT(RegistryLock::Take(root_),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr(root_), HasSubstr("another laplaced"))));
  // A failed try takes nothing away from the holder.
  EXPECT_THAT(RegistryLock::Take(root_), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(RegistryLock::Take(temp_.File("other")), IsOk());
}

TEST_F(RegistryLockTest, EndsWithItsValueAndMovesWithIt) {
  {
    auto first = RegistryLock::Take(root_);
    ASSERT_THAT(first, IsOk());
    const RegistryLock moved = *std::move(first);
    EXPECT_THAT(RegistryLock::Take(root_), StatusIs(absl::StatusCode::kFailedPrecondition));
  }
  EXPECT_THAT(RegistryLock::Take(root_), IsOk());
}

TEST_F(RegistryLockTest, DiesWithAKilledProcess) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto lock = RegistryLock::Take(root_);
    const char held = lock.ok() ? '1' : '0';
    if (write(ready[1], &held, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char held = '0';
  EXPECT_EQ(read(ready[0], &held, 1), 1);
  EXPECT_EQ(held, '1');
  EXPECT_THAT(RegistryLock::Take(root_), StatusIs(absl::StatusCode::kFailedPrecondition));
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_THAT(RegistryLock::Take(root_), IsOk());
  close(ready[0]);
  close(ready[1]);
}

TEST_F(RegistryLockTest, SaysWhichFolderItCannotUse) {
  temp_.Write("registry", "a file");
  EXPECT_THAT(RegistryLock::Take(root_).status().message(), HasSubstr(root_));
  EXPECT_THAT(RegistryLock::Take("/proc/registry"), Not(IsOk()));
}

}  // namespace
}  // namespace laplaced
