// What a run reads that others wrote: its own files, and the messages of other processes.
#include <google/protobuf/message.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cluster/base/checksum.h"
#include "cluster/comm/packet.h"
#include "coordinator/coordinator_state.h"
#include "coordinator/journal.h"
#include "coordinator/run_records.h"
#include "coordinator/run_status.h"
#include "proto/config.pb.h"
#include "proto/control.pb.h"
#include "tests/fuzz/fuzzer.h"
#include "worker/training/control_client.h"

namespace trireme {
namespace {

std::string SomeJournal() {
  std::string journal;
  for (const JournalRecord& record :
       std::vector<JournalRecord>{{"start", 1, 0, "2 workers", {}},
                                  {"committed", 1, 1, "all workers reported", {}},
                                  {"checkpoint", 1, 1, "verified", {}},
                                  {"verdict", 1, 1, "all 1 steps are done", 0}}) {
    journal += EncodeJournalRecord(record) + "\n";
  }
  return journal;
}

// Every line with the checksum of what it now says.
std::string SealLines(const std::string& journal) {
  std::istringstream lines(journal);
  std::string sealed;
  for (std::string line; std::getline(lines, line);) {
    const std::string text = line.size() > 17 ? line.substr(17) : line;
    sealed += StrCat(ChecksumHex(Checksum64(std::string_view(text))), " ", text, "\n");
  }
  return sealed;
}

class RunFolderFuzzTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(run_dir_ + "/journal");
    WriteFile(JournalPath(run_dir_), SomeJournal());
    WriteFile(run_dir_ + "/metrics.jsonl", metrics_);
    WriteFile(run_dir_ + "/events.jsonl", events_);
  }
  void TearDown() override { std::filesystem::remove_all(run_dir_); }

  void ExpectStatus() {
    const auto status = ReadRunStatus(run_dir_, 5);
    ExpectMessage(status.status());
    if (!status.ok()) return;
    RunStatusText(*status);
    const std::string json = RunStatusJson(*status);
    EXPECT_EQ(json.find('\n'), std::string::npos);
    EXPECT_TRUE(nlohmann::json::accept(json)) << json;
  }

  const std::string run_dir_ = FuzzFolder() + "/run";
  const std::string metrics_ =
      MetricsLine(StepMetrics{1, 2.5, 1.25, 1e-3, 64, 10, 6400, 0.5, 1 << 20, 1}) + "\n" +
      MetricsLine(ValidationMetrics{1, 2.25}) + "\n";
  const std::string events_ =
      EventLine({1, "start", 0, {}, "2 workers", {}, {}, {{1, 77, "host", "worker", 0, {}}}}, 0) +
      "\n" + EventLine({1, "stop", 1, 1, "done", 0.5, 0, {}}, 1) + "\n";
};

TEST_F(RunFolderFuzzTest, Journals) {
  bool sealed = false;
  Fuzz("journal.log", {SomeJournal()}, 500, [&](const std::string& input) {
    sealed = !sealed;
    WriteFile(JournalPath(run_dir_), sealed ? SealLines(input) : input);
    const auto records = ReadJournal(run_dir_);
    ExpectMessage(records.status());
    ExpectMessage(ReadVerdict(run_dir_).status());
    ExpectStatus();
  });
}

TEST_F(RunFolderFuzzTest, Metrics) {
  Fuzz("metrics.jsonl", {metrics_}, 500, [&](const std::string& input) {
    WriteFile(run_dir_ + "/metrics.jsonl", input);
    ExpectStatus();
    ExpectMessage(CutMetrics(run_dir_, 1).status());
    // What stays needs no second cut.
    const auto once = CutMetrics(run_dir_, 0), twice = CutMetrics(run_dir_, 0);
    ASSERT_TRUE(once.ok() && twice.ok());
    EXPECT_EQ(once->validated_last, twice->validated_last);
  });
}

TEST_F(RunFolderFuzzTest, Events) {
  Fuzz("events.jsonl", {events_}, 500, [&](const std::string& input) {
    WriteFile(run_dir_ + "/events.jsonl", input);
    ExpectStatus();
  });
}

// False for what the server refuses before anybody looks at it; protobuf would log each.
bool Parse(const std::string& bytes, google::protobuf::Message* message) {
  const google::protobuf::LogSilencer silencer;
  return message->ParseFromString(bytes);
}

proto::ToCoordinator Join(int rank) {
  proto::ToCoordinator message;
  message.mutable_join()->set_rank(rank);
  message.mutable_join()->set_host("host");
  message.mutable_join()->set_isa("avx2");
  message.mutable_join()->set_device("cpu");
  return message;
}

proto::ToCoordinator StepReport(int64_t step) {
  proto::ToCoordinator message;
  message.set_generation(1);
  proto::StepReport* report = message.mutable_step_report();
  report->set_step(step);
  report->set_grad_norm(1.5);
  report->set_lr(1e-3);
  report->set_seconds(0.25);
  proto::LossPart* part = report->add_loss_parts();
  part->set_loss_sum(64.5);
  part->set_label_tokens(32);
  proto::PhaseTime* phase = report->add_phases();
  phase->set_phase("pipeline.forward");
  phase->set_seconds(0.125);
  return message;
}

std::vector<proto::ToCoordinator> MessagesToCoordinator() {
  std::vector<proto::ToCoordinator> messages = {Join(1), StepReport(1), StepReport(2)};
  for (int i = 0; i < 5; ++i) {
    messages.emplace_back();
    messages.back().set_generation(1);
  }
  proto::ToCoordinator* at = &messages[3];
  at->mutable_heartbeat()->set_step(1);
  at->mutable_heartbeat()->set_phase("reduce");
  (++at)->mutable_validation_report()->set_step(1);
  *at->mutable_validation_report()->add_loss_parts() = StepReport(1).step_report().loss_parts(0);
  (++at)->mutable_chunk_report()->set_step(1);
  at->mutable_chunk_report()->set_manifest_part("part");
  (++at)->mutable_leave()->set_reason("done");
  (++at)->mutable_stop_request()->set_reason("SIGTERM");
  return messages;
}

template <typename Message>
std::vector<std::string> Seeds(const std::vector<Message>& messages) {
  std::vector<std::string> seeds;
  for (const Message& message : messages) seeds.push_back(message.SerializeAsString());
  return seeds;
}

// Two workers, a checkpoint and a validation after each step; effects are as files want them.
class FuzzedRun {
 public:
  FuzzedRun() : state_(Options()) { Apply(Tick{}); }

  void Apply(const Input& input) {
    for (const Effect& effect : state_.Apply(input, now_ += 50'000)) {
      if (const auto* event = std::get_if<WriteEvent>(&effect)) {
        ExpectLine(EventLine(event->event, 0));
      } else if (const auto* record = std::get_if<WriteJournal>(&effect)) {
        ExpectLine(EncodeJournalRecord(record->record).substr(17));
      } else if (const auto* metrics = std::get_if<WriteMetrics>(&effect)) {
        std::visit([](const auto& line) { ExpectLine(MetricsLine(line)); }, metrics->line);
      } else if (const auto* commit = std::get_if<CommitManifest>(&effect)) {
        pending_.push_back(commit->step);
      }
    }
    while (!pending_.empty()) {
      const int64_t step = pending_.back();
      pending_.pop_back();
      Apply(StorageResult{StorageResult::Operation::kCommit, step, ""});
    }
  }
  void Say(WorkerId worker, const proto::ToCoordinator& message) {
    Apply(WorkerMessage{worker, std::make_shared<proto::ToCoordinator>(message)});
  }
  void Start() {
    for (const WorkerId worker : {1, 2}) {
      Apply(WorkerConnected{worker});
      Say(worker, Join(static_cast<int>(worker)));
    }
  }

 private:
  static CoordinatorOptions Options() {
    CoordinatorOptions options;
    options.mesh = Mesh(2, 1, 1);
    options.steps_total = 3;
    options.checkpoint_every = options.validation_every = 1;
    return options;
  }
  static void ExpectLine(const std::string& line) {
    EXPECT_EQ(line.find('\n'), std::string::npos);
    EXPECT_TRUE(nlohmann::json::accept(line)) << line;
  }

  CoordinatorState state_;
  Micros now_ = 0;
  std::vector<int64_t> pending_;
};

TEST(MessageFuzzTest, OfWorkersToTheCoordinator) {
  const std::vector<proto::ToCoordinator> messages = MessagesToCoordinator();
  Fuzz("ToCoordinator", Seeds(messages), 2000, [&](const std::string& input) {
    proto::ToCoordinator message;
    if (!Parse(input, &message)) return;
    FuzzedRun joining;
    joining.Apply(WorkerConnected{1});
    joining.Say(1, message);
    joining.Say(1, message);
    joining.Start();
    FuzzedRun running;
    running.Start();
    running.Say(1, message);
    for (int64_t step = 1; step <= 2; ++step) {
      running.Say(2, StepReport(step));
      running.Say(1, StepReport(step));
      running.Say(1, message);
      for (const auto& usual : messages) running.Say(2, usual);
    }
    running.Apply(StopRequested{"SIGTERM"});
    running.Say(1, message);
    running.Apply(WorkerClosed{1, "gone"});
    for (int i = 0; i < 100; ++i) running.Apply(Tick{});
  });
}

TEST(MessageFuzzTest, OfTheCoordinatorToWorkers) {
  std::vector<proto::ToWorker> messages(5);
  for (proto::ToWorker& message : messages) message.set_generation(1);
  messages[0].mutable_plan()->set_lease_ms(300);
  messages[0].mutable_plan()->set_steps_total(10);
  proto::Lease* lease = messages[1].mutable_lease();
  lease->set_lease_ms(300);
  lease->set_budget_step(3);
  lease->set_stop(true);
  lease->set_stop_after_step(3);
  lease->add_checkpoint_at(3);
  lease->add_validate_at(2);
  messages[2].mutable_checkpoint_committed()->set_step(3);
  messages[3].mutable_stop()->set_exit_code(75);
  messages[4].mutable_abort()->set_exit_code(5);
  messages[4].mutable_abort()->set_reason("lost rank 2");
  Fuzz("ToWorker", Seeds(messages), 3000, [&](const std::string& input) {
    proto::ToWorker message;
    if (!Parse(input, &message)) return;
    WorkerControlState state;
    for (Micros now = 0; now < 3; ++now) {
      state.Apply(message, now);
      for (int64_t step = 1; step < 5; ++step) {
        state.OrdersBefore(step);
        const auto outcome = state.CheckpointOutcome(step);
        if (outcome) ExpectMessage(*outcome);
      }
      EXPECT_FALSE(state.HasLease(int64_t{1} << 60));
      if (state.end() && !message.abort().reason().empty()) ExpectMessage(*state.end());
      state.Apply(messages[1], now);
    }
    state.Disconnected("closed");
    ASSERT_TRUE(state.end());
    EXPECT_FALSE(state.HasLease(0));
  });
}

struct TestTransfer final : Transfer {};

TEST(MessageFuzzTest, PacketsBetweenProcesses) {
  std::vector<std::byte> memory(300);
  TestTransfer transfer;
  transfer.layout = StreamLayout({{memory.data(), 100}, {memory.data() + 100, 200}});
  transfer.limit = 100;
  const auto text = [](const Packet& packet) { return Bytes(packet.data(), packet.size()); };
  Packet grant(sizeof(PacketHeader));
  WriteHeader(HeaderOf(transfer, PacketType::kGrant), &grant);
  const std::vector<std::string> seeds = {text(EagerPacket(transfer, {})),
                                          text(AnnouncePacket(transfer, true, {})),
                                          text(AnnouncePacket(transfer, false, {})), text(grant)};
  for (const std::string& seed : seeds) {
    EXPECT_TRUE(CheckPacket(std::as_bytes(std::span(seed)), 1).ok());
  }
  Fuzz("packets", seeds, 5000, [&](const std::string& input) {
    const auto packet = std::as_bytes(std::span(input));
    const Status status = CheckPacket(packet, 1);
    ExpectMessage(status);
    if (!status.ok()) return;
    const PacketHeader header = ReadHeader(packet);
    if (header.type == PacketType::kEager) {
      EXPECT_EQ(packet.size(), sizeof(header) + header.bytes);
    }
    if (header.type != PacketType::kAnnounce) return;
    const StreamLayout segments = AnnouncedSegments(packet);
    EXPECT_TRUE(segments.bytes() == header.bytes || packet.size() == sizeof(header));
    for (int64_t at = 0; at < segments.bytes(); at = segments.ContiguousEnd(at)) {
      ASSERT_GT(segments.ContiguousEnd(at), at);
    }
  });
}

}  // namespace
}  // namespace trireme
