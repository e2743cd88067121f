#include "worker/training/training_step.h"

#include <utility>

#include "worker/optimizer/adamw.h"
#include "worker/training/run_setup.h"

namespace trireme {

TrainingStep::TrainingStep(TrainingStepOptions options) : options_(std::move(options)) {
  options_.stage->ReserveLosses(static_cast<int>(ids().size()));
  if (!WholeStepOnDevice()) return;
  const auto bytes = static_cast<int64_t>(sizeof(StepNumbers));
  given_ = Buffer::Pinned(bytes);
  numbers_ = Buffer(bytes, options_.stream->device());
  made_ = Buffer::Pinned(bytes);
}

bool TrainingStep::WholeStepOnDevice() const {
  return options_.stream->device() != DeviceKind::kCpu && options_.groups->World() == nullptr;
}

bool TrainingStep::CanRecordPasses() const {
  return options_.record && options_.stream->CanRecord() &&
         options_.groups->Along(Axis::kTensor) == nullptr &&
         options_.groups->Along(Axis::kPipeline) == nullptr;
}

Result<double> TrainingStep::Run(const AdamWStep& step) {
  options_.store->BeginStep();
  if (!WholeStepOnDevice()) {
    RETURN_IF_ERROR(CanRecordPasses() ? RunRecorded([this] { return RunPasses(); }) : RunPasses());
    return RunUpdate(step);
  }
  AdamWStep unscaled = step;
  unscaled.gradient_scale = 1;  // FinishNorm's to say
  reinterpret_cast<StepNumbers*>(given_.data())->factors = AdamWFactorsOf(unscaled);
  const auto body = [this] { return RunWholeStep(); };
  RETURN_IF_ERROR(CanRecordPasses() ? RunRecorded(body) : body());
  options_.stream->Synchronize();
  return reinterpret_cast<const StepNumbers*>(made_.data())->norm;
}

// Everything is enqueued and nothing waited for.
Status TrainingStep::RunWholeStep() {
  Stream& stream = *options_.stream;
  auto* numbers = reinterpret_cast<StepNumbers*>(numbers_.data());
  stream.Copy(numbers_.data(), given_.data(), given_.bytes());
  RETURN_IF_ERROR(RunPasses());
  RETURN_IF_ERROR(options_.store->FinishReduction(options_.timeout));
  options_.store->EnqueueNorm(
      [&](const NormRange* ranges, int64_t count) { SumsOfSquares(stream, ranges, count); },
      [&](const double* table, const int64_t* row_ends, int64_t rows) {
        FinishNorm(stream, table, row_ends, rows, options_.clip_norm, numbers);
      });
  RETURN_IF_ERROR(options_.store->Update(
      [&](std::span<const UpdateSlice> slices) { AdamW(stream, ToAdamW(slices), numbers); },
      options_.timeout));
  stream.Copy(made_.data(), numbers_.data(), made_.bytes());
  return OkStatus();
}

Status TrainingStep::RunRecorded(const std::function<Status()>& body) {
  const auto [at, is_new] = recordings_.try_emplace(Now());
  // The first time, libraries choose algorithms and set up workspaces.
  if (is_new) return body();
  if (at->second == nullptr) {
    auto recording = std::make_unique<Recording>(options_.stream);
    recording->Begin();
    options_.store->RecordTo(recording.get());
    const Status status = body();
    options_.store->RecordTo(nullptr);
    recording->End();
    RETURN_IF_ERROR(status);
    options_.store->BeginStep();
    at->second = std::move(recording);
  }
  SetPhase("replay");
  options_.store->FillByReplay();
  options_.stage->FillByReplay(ids());
  at->second->Replay();
  ++replayed_;
  return OkStatus();
}

Result<double> TrainingStep::RunUpdate(AdamWStep step) {
  Stream& stream = *options_.stream;
  SetPhase("reduce");
  RETURN_IF_ERROR(options_.store->FinishReduction(options_.timeout));
  ASSIGN_OR_RETURN(const double norm, options_.store->GlobalNorm(
                                          [&](const NormRange* ranges, int64_t count) {
                                            SumsOfSquares(stream, ranges, count);
                                          },
                                          options_.timeout));
  SetPhase("update");
  step.gradient_scale = ClipFactor(norm, options_.clip_norm);
  RETURN_IF_ERROR(options_.store->Update(
      [&](std::span<const UpdateSlice> slices) { AdamW(stream, ToAdamW(slices), step); },
      options_.timeout));
  return norm;
}

TrainingStep::RecordedFor TrainingStep::Now() const {
  RecordedFor now{options_.store->Addresses(), {}};
  for (const MicrobatchId id : ids()) {
    const Microbatch& microbatch = options_.source(id);
    now.addresses.push_back(microbatch.ids.data());
    now.scales.push_back(microbatch.gradient_scale);
  }
  return now;
}

}  // namespace trireme
