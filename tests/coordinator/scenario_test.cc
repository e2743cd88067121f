// Golden scenarios: tests/testdata/coordinator/*.scenario hold inputs ("> ...") and, below each,
// the effects that follow. TRIREME_UPDATE_GOLDEN=1 writes the files anew; read the difference.
//
//   options data=2 tensor=2 steps=4 ...   before the first input
//   > [at MS] join W [rank=R] [isa=X] [pid=P] [generation=G]   worker W connects and joins as rank
//   R > [at MS] step S | validation S | chunks S [W...]          reports of the given workers, or
//   all > [at MS] beat S PHASE [W...] [entered=N]                  heartbeats > [at MS] message W
//   {ToCoordinator as protobuf text} > [at MS] ticks every 50 ms from the last time to MS > [at MS]
//   beats S PHASE                                    the same with heartbeats of all > [at MS]
//   close W REASON | connect W | stop REASON | stored S [ERROR] | deleted S [ERROR]
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "coordinator/coordinator_state.h"
#include "proto/config.pb.h"
#include "proto/control.pb.h"
#include "tests/coordinator/effect_text.h"

namespace trireme {
namespace {

class Scenario {
 public:
  // The whole file again, with the effects that follow today.
  std::string Replay(const std::string& text) {
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line)) {
      if (line.starts_with("#") || line.empty()) out_ += line + "\n";
      if (line.starts_with("options ")) SetOptions(line);
      if (line.starts_with("> ")) Run(line);
    }
    return out_;
  }

 private:
  static std::map<std::string, std::string> Pairs(std::istringstream& words) {
    std::map<std::string, std::string> pairs;
    for (std::string word; words >> word;) {
      const size_t equals = word.find('=');
      if (equals == std::string::npos) {
        pairs["workers"] += word + " ";
      } else {
        pairs[word.substr(0, equals)] = word.substr(equals + 1);
      }
    }
    return pairs;
  }

  void SetOptions(const std::string& line) {
    out_ += line + "\n";
    std::istringstream words(line.substr(8));
    auto pairs = Pairs(words);
    const auto number = [&](const char* key, int64_t fallback) {
      return pairs.count(key) != 0 ? std::stoll(pairs[key]) : fallback;
    };
    options_.mesh = Mesh(static_cast<int>(number("data", 1)), static_cast<int>(number("tensor", 1)),
                         static_cast<int>(number("pipeline", 1)));
    options_.spares = static_cast<int>(number("spares", 0));
    options_.generation = static_cast<uint64_t>(number("generation", 1));
    options_.start_step = number("start", 0);
    options_.steps_total = number("steps", 4);
    options_.label_tokens_done = number("tokens", 0);
    options_.checkpoint_every = number("checkpoint_every", 0);
    options_.checkpoint_keep = number("keep", 3);
    options_.validation_every = number("validation_every", 0);
    options_.validate_start = number("validate_start", 0) != 0;
    options_.checkpoint_to_load = pairs["load"];
    if (pairs.count("device") != 0) {
      const auto config = std::make_shared<proto::Config>();
      config->set_device(pairs["device"]);
      options_.config = config;
    }
    if (pairs.count("promise_ended") != 0) options_.promises_ended = {pairs["promise_ended"]};
    if (options_.start_step > 0) options_.checkpoints = {options_.start_step};
  }

  void Run(const std::string& line) {
    if (!state_) state_.emplace(options_);
    out_ += line + "\n";
    std::istringstream words(line.substr(2));
    std::string word;
    words >> word;
    Micros target = now_;
    if (word == "at") {
      int64_t ms = 0;
      words >> ms >> word;
      target = ms * 1000;
    }
    if (word == "ticks" || word == "beats") {
      Ticks(word, words, target);
    } else {
      now_ = target;
      Command(word, words);
    }
  }

  void Ticks(const std::string& word, std::istringstream& words, Micros target) {
    int64_t step = 0;
    std::string phase;
    words >> step >> phase;
    auto pairs = Pairs(words);
    std::istringstream chosen(pairs["workers"]);
    for (Micros at = now_ + 50'000; at <= target; at += 50'000) {
      now_ = at;
      if (word == "beats") {
        std::istringstream again(chosen.str());
        Beat(step, phase, Workers(again), pairs.count("entered") ? std::stoll(pairs["entered"]) : 1,
             false);
      }
      Apply(Tick{});
    }
    now_ = target;
  }

  void Command(const std::string& word, std::istringstream& words) {
    if (word == "join") {
      Join(words);
    } else if (word == "step" || word == "validation" || word == "chunks") {
      Report(word, words);
    } else if (word == "beat") {
      int64_t step = 0;
      std::string phase;
      words >> step >> phase;
      auto pairs = Pairs(words);
      std::istringstream chosen(pairs["workers"]);
      Beat(step, phase, Workers(chosen), pairs.count("entered") ? std::stoll(pairs["entered"]) : 1,
           true);
    } else if (word == "message") {
      WorkerId worker = 0;
      words >> worker;
      proto::ToCoordinator message;
      ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(Rest(words), &message));
      if (message.generation() == 0) message.set_generation(options_.generation);
      Send(worker, message);
    } else if (word == "close" || word == "connect") {
      WorkerId worker = 0;
      words >> worker;
      if (word == "connect") {
        Apply(WorkerConnected{worker});
      } else {
        Apply(WorkerClosed{worker, Rest(words)});
      }
    } else if (word == "stop") {
      Apply(StopRequested{Rest(words)});
    } else if (word == "stored" || word == "deleted") {
      int64_t step = 0;
      words >> step;
      Apply(StorageResult{
          word == "stored" ? StorageResult::Operation::kCommit : StorageResult::Operation::kDelete,
          step, Rest(words)});
    } else {
      FAIL() << "no such input: " << word;
    }
  }

  static std::string Rest(std::istringstream& words) {
    std::string rest;
    std::getline(words >> std::ws, rest);
    return rest;
  }

  void Join(std::istringstream& words) {
    WorkerId worker = 0;
    words >> worker;
    auto pairs = Pairs(words);
    proto::ToCoordinator message;
    if (pairs.count("generation") != 0) message.set_generation(std::stoull(pairs["generation"]));
    proto::Join* join = message.mutable_join();
    join->set_rank(pairs.count("rank") != 0 ? std::stoi(pairs["rank"]) : static_cast<int>(worker));
    join->set_pid(pairs.count("pid") != 0 ? std::stoll(pairs["pid"])
                                          : 100 + static_cast<int64_t>(worker));
    join->set_host("a");
    join->set_isa(pairs["isa"]);
    join->set_device(pairs["device"]);
    join->set_gpu(pairs["gpu"]);
    join->set_nccl(pairs["nccl"]);
    join->set_peak_flop_per_second(1e6);
    Apply(WorkerConnected{worker});
    Send(worker, message);
    joined_.insert(worker);
  }

  std::vector<WorkerId> Workers(std::istringstream& words) const {
    std::vector<WorkerId> workers;
    for (WorkerId worker; words >> worker;) workers.push_back(worker);
    if (workers.empty()) workers.assign(joined_.begin(), joined_.end());
    return workers;
  }

  // Plausible reports: the loss falls with the step, all workers agree.
  void Report(const std::string& word, std::istringstream& words) {
    int64_t step = 0;
    words >> step;
    for (const WorkerId worker : Workers(words)) {
      proto::ToCoordinator message;
      message.set_generation(options_.generation);
      proto::LossPart part;
      part.set_part(0);
      part.set_label_tokens(100);
      part.set_loss_sum(800.0 / static_cast<double>(step + 1));
      if (word == "step") {
        proto::StepReport* report = message.mutable_step_report();
        report->set_step(step);
        *report->add_loss_parts() = part;
        report->set_grad_norm(0.5);
        report->set_lr(0.001);
        report->set_seconds(0.25);
        report->set_flop(1e5);
        report->set_memory_bytes(1000 + static_cast<int64_t>(worker));
        for (const char* name : {"pipeline.forward", "reduce.finish"}) {
          proto::PhaseTime* phase = report->add_phases();
          phase->set_phase(name);
          phase->set_seconds(0.1);
        }
      } else if (word == "validation") {
        message.mutable_validation_report()->set_step(step);
        *message.mutable_validation_report()->add_loss_parts() = part;
      } else {
        message.mutable_chunk_report()->set_step(step);
        message.mutable_chunk_report()->set_manifest_part("part" + std::to_string(worker));
      }
      Send(worker, message);
    }
  }

  void Beat(int64_t step, const std::string& phase, const std::vector<WorkerId>& workers,
            int64_t entered, bool show) {
    for (const WorkerId worker : workers) {
      proto::ToCoordinator message;
      message.set_generation(options_.generation);
      message.mutable_heartbeat()->set_step(step);
      message.mutable_heartbeat()->set_phase(phase);
      message.mutable_heartbeat()->set_entered(entered);
      if (show) {
        Send(worker, message);
      } else {
        // Their renewed leases would drown everything else.
        state_->Apply(WorkerMessage{worker, std::make_shared<const proto::ToCoordinator>(message)},
                      now_);
      }
    }
  }

  void Send(WorkerId worker, const proto::ToCoordinator& message) {
    Apply(WorkerMessage{worker, std::make_shared<const proto::ToCoordinator>(message)});
  }

  void Apply(const Input& input) {
    for (const std::string& line : EffectLines(state_->Apply(input, now_))) out_ += line + "\n";
  }

  CoordinatorOptions options_;
  std::optional<CoordinatorState> state_;
  std::set<WorkerId> joined_;
  Micros now_ = 0;
  std::string out_;
};

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ScenarioTest, EffectsAreThoseOnRecord) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(TRIREME_TESTDATA "/coordinator")) {
    if (entry.path().extension() != ".scenario") continue;
    SCOPED_TRACE(entry.path().filename().string());
    ++count;
    const std::string golden = ReadAll(entry.path());
    const std::string today = Scenario().Replay(golden);
    if (std::getenv("TRIREME_UPDATE_GOLDEN") != nullptr) {
      std::ofstream(entry.path()) << today;
    } else {
      EXPECT_EQ(today, golden);
    }
  }
  EXPECT_GE(count, 10);
}

}  // namespace
}  // namespace trireme
