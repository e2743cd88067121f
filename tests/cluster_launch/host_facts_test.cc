#include "cluster/launch/host_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(HostFactsTest, InstructionSetsComeFromTheFirstProcessor) {
  const CpuInfo info = ParseCpuInfo(
      "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu amx_bf16 avx2 sse\n\n"
      "processor\t: 1\nmodel name\t: Other\nflags\t\t: avx512f\n");
  EXPECT_EQ(info.model, "Some CPU @ 2 GHz");
  EXPECT_THAT(info.instruction_sets, ElementsAre("avx2", "amx_bf16"));
  EXPECT_THAT(ParseCpuInfo("Features : fp asimd sve2\n").instruction_sets,
              ElementsAre("asimd", "sve2"));
  EXPECT_TRUE(ParseCpuInfo("").instruction_sets.empty());
}

TEST(HostFactsTest, CpuTimeLimitsAreRead) {
  EXPECT_EQ(ParseCgroupCpuMax("250000 100000\n"), 2.5);
  EXPECT_EQ(ParseCgroupCpuMax("max 100000\n"), 0);
  EXPECT_EQ(ParseCgroupCpuMax("-1 100000"), 0);
  EXPECT_EQ(ParseCgroupCpuMax(""), 0);
}

TEST(HostFactsTest, QuotaAndAffinityBoundTheThreads) {
  CpuFacts cpu;
  cpu.usable_threads = 8;
  EXPECT_EQ(cpu.EffectiveThreads(), 8);
  cpu.quota_threads = 2.5;
  EXPECT_EQ(cpu.EffectiveThreads(), 2);
  cpu.quota_threads = 0.3;
  EXPECT_EQ(cpu.EffectiveThreads(), 1);
}

TEST(HostFactsTest, MemoryIsReadByName) {
  const char* text = "MemTotal:       16 kB\nMemAvailable:    8 kB\n";
  EXPECT_EQ(ParseMemInfo(text, "MemAvailable"), 8192);
  EXPECT_EQ(ParseMemInfo(text, "Mem"), 0);
}

TEST(HostFactsTest, WhatHealsFollowsTheVersionOfMpi) {
  MpiFacts mpi = ParseMpiVersion("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...\n");
  EXPECT_EQ(mpi.name, "Open MPI");
  EXPECT_EQ(mpi.version, "4.1.4");
  EXPECT_THAT(HealingOf(mpi), HasSubstr("--enable-recovery"));
  mpi = ParseMpiVersion("mpirun (Open MPI) 5.0.7\n");
  EXPECT_THAT(HealingOf(mpi), HasSubstr("without fault tolerance"));
  mpi.has_ulfm = true;
  EXPECT_THAT(HealingOf(mpi), HasSubstr("--with-ft ulfm"));
  EXPECT_THAT(HealingOf(ParseMpiVersion("Intel(R) MPI Library 2021\n")), HasSubstr("not Open MPI"));
  EXPECT_THAT(HealingOf(MpiFacts()), HasSubstr("no mpirun"));
}

TEST(HostFactsTest, ThisMachineHasCoresAndMemory) {
  const HostFacts facts = ReadHostFacts();
  EXPECT_GE(facts.cpu.usable_threads, 1);
  EXPECT_GE(facts.cpu.hardware_threads, facts.cpu.usable_threads);
  EXPECT_GT(facts.memory.total_bytes, 0);
  EXPECT_FALSE(facts.networks.empty());
}

}  // namespace
}  // namespace trireme
