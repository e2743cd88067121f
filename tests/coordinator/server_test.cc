// The whole control plane over sockets of this host: CoordinatorServer and ControlClients in
// threads that only pretend to compute.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "cluster/rpc/rpc_client.h"
#include "coordinator/coordinator_server.h"
#include "coordinator/journal.h"
#include "coordinator/run_status.h"
#include "proto/config.pb.h"
#include "proto/control.pb.h"
#include "worker/training/control_client.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct WorkerResult {
  Status status;
  int place = -2;
  std::vector<int64_t> steps;
  std::vector<int64_t> validations;
  std::vector<int64_t> checkpoints;
  Status abort;
};

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    dir_ = StrCat(::testing::TempDir(), "/server_", getpid(), "_", test->name());
    config_.mutable_layout()->set_data(2);
    config_.mutable_lr_schedule()->set_steps(6);
    config_.mutable_checkpoint()->set_every_steps(2);
    config_.mutable_checkpoint()->set_keep(1);
    config_.mutable_validation()->set_every_steps(3);
    config_.mutable_data()->add_validation()->set_path("x");
    // Long leases: what is tested here is not who is late on a busy machine.
    config_.mutable_recovery()->set_lease_ms(10'000);
    options_.storage.commit_manifest = [this](int64_t step, const auto& parts) {
      committed_.push_back(step);
      for (const auto& [place, part] : parts) EXPECT_EQ(part, StrCat("part of ", place));
      return commit_status_;
    };
    options_.storage.delete_checkpoint = [this](int64_t step) {
      deleted_.push_back(step);
      return OkStatus();
    };
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }

  Status Start() {
    options_.config = std::make_shared<proto::Config>(config_);
    options_.run_dir = dir_;
    options_.bind_address = "127.0.0.1";
    options_.advertise_host = "127.0.0.1";
    options_.progress = false;
    ASSIGN_OR_RETURN(server_, CoordinatorServer::Start(options_));
    return OkStatus();
  }

  // A worker's whole life. `on_step` runs in place of the computation.
  std::future<WorkerResult> Work(int rank, std::function<void(int64_t)> on_step = nullptr) {
    return std::async(std::launch::async, [this, rank, on_step] {
      WorkerResult result;
      result.status = Live(rank, on_step, &result);
      return result;
    });
  }

  Status Live(int rank, const std::function<void(int64_t)>& on_step, WorkerResult* result) {
    ASSIGN_OR_RETURN(const Endpoint endpoint, ReadEndpoint(EndpointPath(dir_)));
    ControlClientOptions options;
    options.coordinator = endpoint;
    std::promise<Status> aborted;
    options.on_abort = [&](const Status& why) { aborted.set_value(why); };
    proto::Join join;
    join.set_rank(rank);
    join.set_pid(1000 + rank);
    join.set_host("here");
    ASSIGN_OR_RETURN(const auto client, ControlClient::Connect(options, join));
    result->place = client->plan().place();
    if (result->place < 0) return client->Finish();
    for (int64_t step = client->plan().start_step() + 1;; ++step) {
      const auto orders = client->AwaitBudget(step);
      if (!orders.ok()) {
        result->abort = aborted.get_future().get();
        EXPECT_FALSE(client->AwaitLease().ok()) << "a run that has ended grants none";
        return orders.status();
      }
      if (orders->validate) {
        result->validations.push_back(step - 1);
        proto::ValidationReport report;
        report.set_step(step - 1);
        *report.add_loss_parts() = Part(step);
        client->ReportValidation(report);
      }
      if (orders->checkpoint) {
        RETURN_IF_ERROR(client->AwaitLease());
        result->checkpoints.push_back(step - 1);
        proto::ChunkReport report;
        report.set_step(step - 1);
        report.set_manifest_part(StrCat("part of ", result->place));
        client->ReportChunks(report);
      }
      if (orders->stop) return client->Finish();
      client->SetPhase("pipeline.forward", 1);
      if (on_step) on_step(step);
      client->SetPhase("reduce");
      proto::StepReport report;
      report.set_step(step);
      *report.add_loss_parts() = Part(step);
      report.set_grad_norm(0.5);
      report.set_seconds(0.1);
      client->ReportStep(std::move(report));
      result->steps.push_back(step);
    }
  }

  static proto::LossPart Part(int64_t step) {
    proto::LossPart part;
    part.set_loss_sum(static_cast<double>(100 - step));
    part.set_label_tokens(10);
    return part;
  }

  std::vector<nlohmann::json> Lines(const std::string& name) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(dir_ + "/" + name);
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  std::vector<std::string> EventKinds() const {
    std::vector<std::string> kinds;
    for (const auto& line : Lines("events.jsonl")) kinds.push_back(line["kind"]);
    return kinds;
  }

  std::string dir_;
  proto::Config config_;
  CoordinatorServerOptions options_;
  std::unique_ptr<CoordinatorServer> server_;
  Status commit_status_;
  std::vector<int64_t> committed_;
  std::vector<int64_t> deleted_;
};

TEST_F(ServerTest, ARunFromTheFirstStepToTheLast) {
  options_.spares = 1;
  ASSERT_TRUE(Start().ok());
  struct stat file {};
  ASSERT_EQ(stat(EndpointPath(dir_).c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  auto spare = Work(3);
  auto first = Work(1);
  auto second = Work(2);
  EXPECT_TRUE(server_->Wait().ok());
  const WorkerResult one = first.get();
  EXPECT_TRUE(one.status.ok()) << one.status.message();
  EXPECT_EQ(one.place, 0);
  EXPECT_EQ(second.get().place, 1);
  EXPECT_EQ(spare.get().place, -1);
  EXPECT_THAT(one.steps, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(one.validations, ElementsAre(0, 3, 6));
  EXPECT_THAT(one.checkpoints, ElementsAre(2, 4, 6));
  EXPECT_THAT(committed_, ElementsAre(2, 4, 6));
  EXPECT_THAT(deleted_, ElementsAre(2, 4));
  const auto metrics = Lines("metrics.jsonl");
  std::vector<std::string> order;
  for (const auto& line : metrics) {
    order.push_back((line.contains("loss") ? "s" : "v") + std::to_string(line["step"].get<int>()));
  }
  EXPECT_THAT(order, ElementsAre("v0", "s1", "s2", "s3", "v3", "s4", "s5", "s6", "v6"));
  EXPECT_EQ(metrics[1]["loss"], 9.9);
  EXPECT_EQ(metrics[7]["tokens"], 60);
  EXPECT_EQ(EventKinds().front(), "start");
  EXPECT_EQ(EventKinds().back(), "stop");
  EXPECT_EQ((*ReadVerdict(dir_))->exit_code, 0);
  EXPECT_FALSE(std::filesystem::is_empty(dir_ + "/tensorboard"));
  EXPECT_FALSE(std::filesystem::exists(EndpointPath(dir_))) << "the secret goes with the run";
}

TEST_F(ServerTest, AStopIsOneCommonStepAndTheRunGoesOnFromThere) {
  config_.mutable_lr_schedule()->set_steps(1000);
  config_.mutable_checkpoint()->set_every_steps(0);
  ASSERT_TRUE(Start().ok());
  auto first = Work(1, [this](int64_t step) {
    if (step == 5) server_->RequestStop("SIGTERM");
  });
  auto second = Work(2);
  const Status status = server_->Wait();
  EXPECT_EQ(ExitCode(status), 75);
  const WorkerResult one = first.get();
  const WorkerResult two = second.get();
  EXPECT_EQ(ExitCode(one.status), 75);
  EXPECT_EQ(one.steps, two.steps);
  ASSERT_GE(one.steps.back(), 5);
  const int64_t stopped = one.steps.back();
  EXPECT_THAT(committed_, ElementsAre(stopped));
  EXPECT_EQ((*ReadVerdict(dir_))->exit_code, 75);

  // Go on: the lines that were written stay, generation grows, nothing is written twice.
  server_.reset();
  config_.mutable_lr_schedule()->set_steps(stopped + 2);
  options_.start_step = stopped;
  options_.label_tokens = stopped * 10;
  options_.checkpoints = {stopped};
  options_.checkpoint_to_load = "somewhere";
  ASSERT_TRUE(Start().ok());
  EXPECT_EQ(server_->generation(), 2u);
  first = Work(1);
  second = Work(2);
  EXPECT_TRUE(server_->Wait().ok());
  EXPECT_THAT(first.get().steps, ElementsAre(stopped + 1, stopped + 2));
  int64_t last = 0;
  for (const auto& line : Lines("metrics.jsonl")) {
    if (!line.contains("loss")) continue;
    EXPECT_EQ(line["step"], ++last);
    EXPECT_EQ(line["tokens"], last * 10);
  }
  EXPECT_EQ(last, stopped + 2);
}

TEST_F(ServerTest, ALostWorkerEndsTheRunForAll) {
  ASSERT_TRUE(Start().ok());
  std::promise<void> gone;
  auto first = Work(1, [&](int64_t step) {
    if (step == 1) gone.get_future().wait();
  });
  // A process that joins and dies: its socket closes without a word.
  RpcClientOptions raw;
  raw.server = {server_->address(), server_->secret()};
  auto second = RpcClient::Connect(raw, {});
  ASSERT_TRUE(second.ok()) << second.status().message();
  proto::ToCoordinator join;
  join.mutable_join()->set_rank(2);
  ASSERT_TRUE((*second)->SendAndWait(1, join.SerializeAsString(), 30'000).ok());
  while (!std::filesystem::exists(dir_ + "/events.jsonl") || EventKinds().empty()) {
    std::this_thread::yield();
  }
  second->reset();
  gone.set_value();
  const Status status = server_->Wait();
  EXPECT_EQ(ExitCode(status), 5);
  EXPECT_THAT(status.message(), HasSubstr("lost worker rank 2"));
  const WorkerResult one = first.get();
  EXPECT_EQ(ExitCode(one.status), 5);
  EXPECT_EQ(one.abort.message(), status.message());
  EXPECT_THAT(EventKinds(), ElementsAre("start", "worker_lost", "stop"));
  EXPECT_EQ(Lines("events.jsonl")[2]["exit_code"], 5);
  EXPECT_EQ((*ReadVerdict(dir_))->exit_code, 5);
}

TEST_F(ServerTest, ALastCheckpointThatCannotBeWrittenIsExitCode4) {
  commit_status_ = StorageError("No space left on device");
  ASSERT_TRUE(Start().ok());
  auto first = Work(1);
  auto second = Work(2);
  const Status status = server_->Wait();
  EXPECT_EQ(ExitCode(status), 4);
  EXPECT_THAT(status.message(), HasSubstr("No space left on device"));
  EXPECT_EQ(ExitCode(first.get().status), 4);
  second.wait();
  EXPECT_EQ(Lines("metrics.jsonl").size(), 9u) << "training went on to its end";
}

TEST_F(ServerTest, ASecondCoordinatorOnTheSameRunIsRefused) {
  ASSERT_TRUE(Start().ok());
  const auto second = CoordinatorServer::Start(options_);
  EXPECT_EQ(ExitCode(second.status()), 2);
  EXPECT_THAT(second.status().message(), HasSubstr("is being trained by another process"));
}

TEST_F(ServerTest, MessagesThatAreNoneAreClosedAndTheRunGoesOn) {
  ASSERT_TRUE(Start().ok());
  RpcClientOptions raw;
  raw.server = {server_->address(), server_->secret()};
  std::promise<void> closed;
  RpcClientCallbacks callbacks;
  callbacks.closed = [&](const Status&) { closed.set_value(); };
  auto stranger = RpcClient::Connect(raw, std::move(callbacks));
  ASSERT_TRUE(stranger.ok()) << stranger.status().message();
  (*stranger)->Send(1, "\xff\xff\xff not protobuf");
  closed.get_future().wait();
  auto first = Work(1);
  auto second = Work(2);
  EXPECT_TRUE(server_->Wait().ok());
}

}  // namespace
}  // namespace trireme
