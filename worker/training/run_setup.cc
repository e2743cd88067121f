#include "worker/training/run_setup.h"

#include "proto/config.pb.h"

namespace trireme {

DType ComputeDType(const proto::Config& config) {
  return config.precision().compute() == "bfloat16" ? DType::kBF16 : DType::kF32;
}

int64_t MicrobatchesPerStep(const proto::Config& config) {
  return config.batch().sequences() / config.batch().microbatch_sequences();
}

StageOptions StageOptionsFor(const proto::Config& config, const Mesh& mesh, int rank) {
  StageOptions options;
  options.shape = ModelShape::From(config.model());
  options.mesh = mesh;
  options.rank = rank;
  options.tokens = {config.batch().microbatch_sequences(), config.data().sequence_length()};
  options.compute = ComputeDType(config);
  const std::string& recompute = config.layout().recompute();
  options.recompute = recompute == "full"        ? Recompute::kFull
                      : recompute == "selective" ? Recompute::kSelective
                                                 : Recompute::kNone;
  options.device = config.device() == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
  return options;
}

Result<Schedule> ScheduleFor(const proto::Config& config, int microbatches) {
  return MakeSchedule(config.layout().pipeline_schedule(),
                      static_cast<int>(config.layout().pipeline()), microbatches);
}

std::vector<AdamWSlice> ToAdamW(std::span<const UpdateSlice> slices) {
  std::vector<AdamWSlice> result;
  result.reserve(slices.size());
  for (const UpdateSlice& s : slices) {
    result.push_back(
        {s.gradient, s.p, s.m, s.v, s.p_next, s.m_next, s.v_next, s.p_compute, s.n, s.decay});
  }
  return result;
}

}  // namespace trireme
