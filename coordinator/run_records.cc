#include "coordinator/run_records.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "cluster/base/json.h"
#include "coordinator/json_fields.h"

namespace trireme {
namespace {

Json MemberJson(const MemberInfo& member) {
  Json json = {
      {"rank", member.rank}, {"pid", member.pid}, {"host", member.host}, {"role", member.role}};
  if (member.place >= 0) {
    Json place = {{"logical_rank", member.place}};
    for (const Axis axis : {Axis::kData, Axis::kTensor, Axis::kPipeline, Axis::kContext}) {
      place[AxisName(axis)] = member.point[static_cast<int>(axis)];
    }
    json["place"] = std::move(place);
  } else {
    json["place"] = nullptr;
  }
  return json;
}

}  // namespace

std::string MetricsLine(const StepMetrics& metrics) {
  Json json;
  json["step"] = metrics.step;
  json["loss"] = metrics.loss;
  json["grad_norm"] = metrics.grad_norm;
  json["lr"] = metrics.lr;
  json["tokens"] = metrics.tokens;
  json["step_ms"] = std::round(metrics.step_ms * 1e3) / 1e3;
  json["tokens_per_second"] = std::round(metrics.tokens_per_second * 10) / 10;
  json["mfu"] = metrics.mfu ? Json(std::round(*metrics.mfu * 1e6) / 1e6) : Json(nullptr);
  json["memory_bytes_max"] = metrics.memory_bytes_max;
  json["generation"] = metrics.generation;
  return DumpJson(json);
}

std::string MetricsLine(const ValidationMetrics& metrics) {
  Json json;
  json["step"] = metrics.step;
  json["validation_loss"] = metrics.loss;
  json["validation_perplexity"] = std::exp(metrics.loss);
  return DumpJson(json);
}

std::string EventLine(const Event& event, double wall_seconds) {
  Json json;
  json["time"] = FormatUtc(wall_seconds);
  json["generation"] = event.generation;
  json["kind"] = event.kind;
  json["step"] = event.step;
  json["worker"] = event.worker ? Json(*event.worker) : Json(nullptr);
  json["reason"] = event.reason;
  if (event.detect_seconds) json["detect_seconds"] = *event.detect_seconds;
  if (event.exit_code) json["exit_code"] = *event.exit_code;
  if (!event.members.empty()) {
    json["members"] = Json::array();
    for (const MemberInfo& member : event.members) json["members"].push_back(MemberJson(member));
  }
  return DumpJson(json);
}

Result<MetricsSoFar> CutMetrics(const std::string& run_dir, int64_t step) {
  const std::string path = run_dir + "/metrics.jsonl";
  std::ifstream file(path);
  if (!file) return MetricsSoFar{};
  MetricsSoFar so_far;
  std::string kept;
  std::string line;
  bool cut = false;
  while (std::getline(file, line)) {
    const auto json = ParseJson(line);
    const std::optional<int64_t> of_step = IntegerField(json, "step");
    const std::optional<int64_t> tokens = IntegerField(json, "tokens");
    const bool whole = of_step && (tokens || !json.contains("tokens"));
    if (file.eof() || !whole || *of_step > step) {
      cut = true;
      continue;
    }
    if (json.contains("validation_loss")) so_far.validated_last = *of_step == step;
    kept += line + "\n";
  }
  file.close();
  if (!cut) return so_far;
  const std::string temporary = path + ".tmp";
  const int out = open(temporary.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  bool good = out >= 0;
  for (size_t done = 0; good && done < kept.size();) {
    const ssize_t got = write(out, kept.data() + done, kept.size() - done);
    good = got > 0;
    done += good ? static_cast<size_t>(got) : 0;
  }
  good = good && fsync(out) == 0;
  const int error = errno;
  if (out >= 0) close(out);
  if (!good || rename(temporary.c_str(), path.c_str()) != 0) {
    return StorageError(StrCat(path, ": ", strerror(good ? errno : error)));
  }
  return so_far;
}

}  // namespace trireme
