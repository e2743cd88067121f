#include "worker/training/training_step.h"

#include <utility>

#include "worker/optimizer/adamw.h"
#include "worker/training/run_setup.h"

namespace trireme {

TrainingStep::TrainingStep(TrainingStepOptions options) : options_(std::move(options)) {
  options_.stage->ReserveLosses(static_cast<int>(ids().size()));
  if (!OnGpu()) return;
  const auto bytes = static_cast<int64_t>(sizeof(StepNumbers));
  given_ = Buffer::Pinned(bytes);
  numbers_ = Buffer(bytes, options_.stream->device());
  made_ = Buffer::Pinned(bytes);
}

Result<double> TrainingStep::Run(const AdamWStep& step) {
  return OnGpu() ? RunOnGpu(step) : RunOnCpu(step);
}

Result<double> TrainingStep::RunOnGpu(const AdamWStep& step) {
  AdamWStep unscaled = step;
  unscaled.gradient_scale = 1;  // FinishNorm's to say
  auto* given = reinterpret_cast<StepNumbers*>(given_.data());
  given->factors = AdamWFactorsOf(unscaled);
  given->t = step.t;
  Status status;
  if (!IsAlone() && !rehearsed_) status = Rehearse();
  if (status.ok()) status = RunOrReplay();
  if (status.ok() && options_.meanwhile) options_.meanwhile();
  // What has followed operations is worth something once they have all ended well.
  if (status.ok()) status = options_.groups->Settle(options_.timeout);
  if (!status.ok()) {
    options_.stage->Abandon();
    options_.executor->Abandon();
    recordings_.clear();  // they use memory that operations may have taken with them
    return status;
  }
  options_.stream->Synchronize();
  return reinterpret_cast<const StepNumbers*>(made_.data())->norm;
}

Status TrainingStep::RunOrReplay() {
  options_.store->BeginStep();
  if (!options_.record || !options_.stream->CanRecord()) return Enqueue();
  const auto [at, is_new] = recordings_.try_emplace(Now());
  // Of a rank that is alone the first time is what a rehearsal is to the others.
  if (is_new && IsAlone()) return Enqueue();
  if (at->second == nullptr) {
    ASSIGN_OR_RETURN(at->second, Record());
    // All ranks record their first two steps. Making a graph may wait for all kernels.
    if (++recorded_ <= 2) RETURN_IF_ERROR(MeetOthers("recording a step"));
  }
  SetPhase("replay");
  options_.stage->FillByReplay(at->second->losses);
  RETURN_IF_ERROR(at->second->recording.Replay());
  ++replayed_;
  graphs_ = at->second->recording.graphs();
  return OkStatus();
}

// numbers: AdamWStep, or where the device has them.
template <typename Numbers>
Status TrainingStep::Update(const Numbers& numbers) {
  return options_.store->Update(
      [&](std::span<const UpdateSlice> slices) {
        const AdamWSlices adamw = ToAdamW(slices);
        AdamW(*options_.stream, adamw.in_f32, numbers);
        AdamWRounded(*options_.stream, adamw.rounded, numbers, options_.seed);
      },
      options_.timeout);
}

// The whole step: everything is enqueued, and nothing waited for but messages.
Status TrainingStep::Enqueue() {
  Stream& stream = *options_.stream;
  auto* numbers = reinterpret_cast<StepNumbers*>(numbers_.data());
  stream.Copy(numbers_.data(), given_.data(), given_.bytes());
  RETURN_IF_ERROR(RunPasses());
  RETURN_IF_ERROR(options_.store->FinishReduction(options_.timeout));
  RETURN_IF_ERROR(options_.store->EnqueueNorm(
      [&](const NormRange* ranges, int64_t count) { SumsOfSquares(stream, ranges, count); },
      [&](const double* table, const int64_t* row_ends, int64_t rows) {
        FinishNorm(stream, table, row_ends, rows, options_.clip_norm, numbers);
      },
      options_.timeout));
  RETURN_IF_ERROR(Update(numbers));
  stream.Copy(made_.data(), numbers_.data(), made_.bytes());
  return OkStatus();
}

Status TrainingStep::EnqueueInto(Recording* recording) {
  const auto record_to = [this](Recording* to) {
    options_.stage->RecordTo(to);
    options_.executor->RecordTo(to);
    options_.store->RecordTo(to);
  };
  recording->Begin();
  record_to(recording);
  const Status status = Enqueue();
  record_to(nullptr);
  recording->End();
  return status;
}

Result<std::unique_ptr<TrainingStep::Recorded>> TrainingStep::Record() {
  auto recorded = std::make_unique<Recorded>(Recorded{Recording(options_.stream), {}});
  RETURN_IF_ERROR(EnqueueInto(&recorded->recording));
  options_.stream->Synchronize();  // graphs are on the GPU before anyone goes on
  recorded->losses = options_.stage->ForgetLosses();
  options_.store->BeginStep();
  return recorded;
}

Status TrainingStep::Rehearse() {
  SetPhase("rehearse");
  options_.store->BeginStep();
  Recording rehearsal = Recording::Rehearsal(options_.stream);
  options_.groups->BeginRehearsal();
  RETURN_IF_ERROR(EnqueueInto(&rehearsal));
  RETURN_IF_ERROR(options_.groups->Settle(options_.timeout));
  options_.stream->Synchronize();
  options_.stage->ForgetLosses();
  rehearsed_ = true;
  // What connects may wait for kernels that run, so one group after the other does it alone.
  RETURN_IF_ERROR(MeetOthers("rehearsing a step"));
  RETURN_IF_ERROR(options_.groups->EndRehearsal(options_.timeout));
  return MeetOthers("connecting");
}

Status TrainingStep::MeetOthers(const char* why) {
  if (IsAlone()) return OkStatus();
  Work work = options_.groups->World()->Barrier();
  const Status status = work.Wait(options_.timeout);
  if (status.ok()) return status;
  work.Abandon();
  return status.WithContext(why);
}

Result<double> TrainingStep::RunOnCpu(AdamWStep step) {
  Stream& stream = *options_.stream;
  options_.store->BeginStep();
  RETURN_IF_ERROR(RunPasses());
  SetPhase("reduce");
  RETURN_IF_ERROR(options_.store->FinishReduction(options_.timeout));
  ASSIGN_OR_RETURN(const double norm, options_.store->GlobalNorm(
                                          [&](const NormRange* ranges, int64_t count) {
                                            SumsOfSquares(stream, ranges, count);
                                          },
                                          options_.timeout));
  SetPhase("update");
  step.gradient_scale = ClipFactor(norm, options_.clip_norm);
  RETURN_IF_ERROR(Update(step));
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
