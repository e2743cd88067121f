#include "worker/training/run_setup.h"

#include "proto/config.pb.h"

namespace trireme {

DType ComputeDType(const proto::Config& config) {
  return config.precision().compute() == "bfloat16" ? DType::kBF16 : DType::kF32;
}

WeightTypes WeightTypesOf(const proto::Config& config) {
  const bool no_masters = config.precision().master() == "bfloat16";
  return {ComputeDType(config), no_masters ? DType::kBF16 : DType::kF32};
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

AdamWSlices ToAdamW(std::span<const UpdateSlice> slices) {
  AdamWSlices result;
  for (const UpdateSlice& s : slices) {
    if (s.p_rounded != nullptr) {
      result.rounded.push_back({s.gradient, s.p_rounded, s.m, s.v, s.p_compute, s.m_next, s.v_next,
                                s.n, s.first_element, s.decay});
    } else {
      result.in_f32.push_back(
          {s.gradient, s.p, s.m, s.v, s.p_next, s.m_next, s.v_next, s.p_compute, s.n, s.decay});
    }
  }
  return result;
}

}  // namespace trireme
