// trireme checkpoint: what a store holds, whether it is whole, and what it hashes to.
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <iostream>

#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/run_options.h"
#include "cluster/base/json.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_copy.h"
#include "storage/checkpoint_location.h"

namespace trireme {
namespace {

struct CheckpointOptions {
  std::string action;
  std::string store;
  std::string other;
  bool json = false;
};

struct OpenedStore {
  CheckpointLocation location;
  std::unique_ptr<ObjectStore> store;
  std::vector<int64_t> steps;  // ascending; the one that was named, if one was
};

Result<OpenedStore> OpenSteps(const std::string& text) {
  OpenedStore opened;
  RETURN_IF_ERROR(CheckStepOf(text));
  opened.location = LocateCheckpoint(text);
  const std::string& url = opened.location.store_url;
  ASSIGN_OR_RETURN(opened.store, OpenStore(url));
  std::error_code ignored;
  if (url.find("://") == std::string::npos && !std::filesystem::is_directory(url, ignored)) {
    return StorageError(StrCat(url, ": no such store"));
  }
  if (opened.location.step) {
    opened.steps = {*opened.location.step};
    return opened;
  }
  ASSIGN_OR_RETURN(opened.steps, ListCheckpoints(*opened.store));
  return opened;
}

Json Summary(const CheckpointReader& reader) {
  const proto::Manifest& manifest = reader.manifest();
  return {{"step", reader.step()},
          {"generation", manifest.generation()},
          {"created", manifest.created()},
          {"tensors", reader.tensors().size()},
          {"chunks", manifest.chunks_size()},
          {"bytes", reader.chunk_bytes()}};
}

Status List(const CheckpointOptions& options) {
  ASSIGN_OR_RETURN(const OpenedStore opened, OpenSteps(options.store));
  Json list = Json::array();
  for (const int64_t step : opened.steps) {
    const auto reader = CheckpointReader::Open(*opened.store, step);
    list.push_back(reader.ok() ? Summary(**reader)
                               : Json{{"step", step}, {"error", reader.status().message()}});
  }
  if (options.json) {
    std::cout << DumpJson(Json{{"store", opened.location.store_url}, {"checkpoints", list}})
              << "\n";
    return OkStatus();
  }
  if (list.empty()) std::cout << opened.location.store_url << ": no checkpoints\n";
  for (const Json& entry : list) {
    std::cout << "step " << std::setw(8) << entry["step"].get<int64_t>();
    if (entry.contains("error")) {
      std::cout << "  " << entry["error"].get<std::string>() << "\n";
      continue;
    }
    std::cout << "  " << entry["created"].get<std::string>() << "  " << entry["tensors"]
              << " tensors in " << entry["chunks"] << " chunks, " << entry["bytes"]
              << " bytes, generation " << entry["generation"] << "\n";
  }
  return OkStatus();
}

Result<OpenedCheckpoint> OpenAndTell(const std::string& store) {
  ASSIGN_OR_RETURN(OpenedCheckpoint opened, OpenCheckpoint(store));
  TellSetAside("checkpoint", opened.set_aside);
  return opened;
}

Json Details(const CheckpointReader& reader) {
  const proto::Manifest& manifest = reader.manifest();
  Json json = Summary(reader);
  json["parent_step"] = manifest.parent_step();
  json["family"] = manifest.config().model().family();
  json["program_version"] = manifest.program_version();
  json["library_versions"] = manifest.product_library();
  json["instruction_set"] = manifest.instruction_set();
  json["seed"] = manifest.seed();
  const proto::DataCursor& cursor = manifest.data_cursor();
  json["data_cursor"] = {{"step", cursor.step()},
                         {"samples", cursor.samples()},
                         {"tokens", cursor.tokens()},
                         {"label_tokens", cursor.label_tokens()},
                         {"train_data", cursor.train_data()}};
  json["lr_schedule"] = manifest.schedule().name();
  json["sum_leaves"] = manifest.sum_leaves();
  json["sum_order"] = manifest.sum_order();
  json["microbatch_sequences"] = manifest.microbatch_sequences();
  json["weights"] = Json::array();
  json["state"] = Json::array();
  for (const TensorInfo& tensor : reader.tensors()) {
    json[IsOptimizerTensor(tensor.name) ? "state" : "weights"].push_back(
        {{"name", tensor.name}, {"dtype", DTypeName(tensor.dtype)}, {"shape", tensor.shape}});
  }
  return json;
}

Status Show(const CheckpointOptions& options) {
  ASSIGN_OR_RETURN(const OpenedCheckpoint opened, OpenAndTell(options.store));
  const Json json = Details(*opened.reader);
  if (options.json) {
    std::cout << DumpJson(json) << "\n";
    return OkStatus();
  }
  for (const auto& [key, value] : json.items()) {
    if (!value.is_array()) {
      std::cout << key << ": " << (value.is_string() ? value.get<std::string>() : DumpJson(value))
                << "\n";
      continue;
    }
    std::cout << key << ":\n";
    for (const Json& tensor : value) {
      std::cout << "  " << tensor["name"].get<std::string>() << " "
                << tensor["dtype"].get<std::string>() << " " << DumpJson(tensor["shape"]) << "\n";
    }
  }
  return OkStatus();
}

Status Verify(const CheckpointOptions& options) {
  ASSIGN_OR_RETURN(const OpenedStore opened, OpenSteps(options.store));
  if (opened.steps.empty()) {
    return StorageError(StrCat(opened.location.store_url, ": no checkpoints"));
  }
  Json list = Json::array();
  std::string first_error;
  int bad = 0;
  for (const int64_t step : opened.steps) {
    const Status status = OpenVerifiedCheckpoint(*opened.store, step).status();
    Json entry = {{"step", step}, {"verified", status.ok()}};
    if (!status.ok()) {
      entry["error"] = status.message();
      if (bad++ == 0) first_error = status.message();
    }
    if (!options.json) {
      std::cout << "step " << step << ": " << (status.ok() ? "verified" : status.message()) << "\n";
    }
    list.push_back(std::move(entry));
  }
  if (options.json) {
    std::cout << DumpJson(Json{{"store", opened.location.store_url}, {"checkpoints", list}})
              << "\n";
  }
  if (bad == 0) return OkStatus();
  return StorageError(StrCat(bad, " of ", opened.steps.size(), " do not verify: ", first_error));
}

Status Hash(const CheckpointOptions& options) {
  ASSIGN_OR_RETURN(const OpenedCheckpoint opened, OpenAndTell(options.store));
  ASSIGN_OR_RETURN(const CheckpointHash hash, opened.reader->Hash());
  if (options.json) {
    std::cout << DumpJson(
                     Json{{"step", hash.step}, {"weights", hash.weights}, {"state", hash.state}})
              << "\n";
  } else {
    std::cout << "step " << hash.step << "\nweights " << hash.weights << "\nstate   " << hash.state
              << "\n";
  }
  return OkStatus();
}

Status Delete(const CheckpointOptions& options) {
  ASSIGN_OR_RETURN(const OpenedStore opened, OpenSteps(options.store));
  if (!opened.location.step) {
    return InvalidArgumentError(StrCat(options.store, ": expected STORE@STEP"));
  }
  const int64_t step = *opened.location.step;
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(*opened.store));
  if (std::find(steps.begin(), steps.end(), step) == steps.end()) {
    return StorageError(StrCat(opened.location.store_url, ": no checkpoint of step ", step));
  }
  RETURN_IF_ERROR(DeleteCheckpoint(*opened.store, step));
  if (options.json) {
    std::cout << DumpJson(Json{{"deleted", step}}) << "\n";
  } else {
    std::cout << "step " << step << ": deleted\n";
  }
  return OkStatus();
}

Status Copy(const CheckpointOptions& options) {
  if (options.other.empty()) return InvalidArgumentError("copy: expected STORE[@STEP] TARGET");
  const CheckpointLocation to = LocateCheckpoint(options.other);
  if (to.step) {
    return InvalidArgumentError(
        StrCat("copy: ", options.other, ": expected a store, a copy keeps its step"));
  }
  ASSIGN_OR_RETURN(const OpenedCheckpoint opened, OpenAndTell(options.store));
  ASSIGN_OR_RETURN(const auto target, OpenStore(to.store_url));
  const Status copied = CopyCheckpoint(*opened.store, *opened.reader, *target);
  if (copied.code() == StatusCode::kDataLoss) return StorageError(copied.message());
  RETURN_IF_ERROR(copied);
  if (options.json) {
    std::cout << DumpJson(Json{{"step", opened.reader->step()}, {"target", to.store_url}}) << "\n";
  } else {
    std::cout << "step " << opened.reader->step() << ": copied to " << to.store_url
              << " and verified\n";
  }
  return OkStatus();
}

Status Diff(const CheckpointOptions& options) {
  if (options.other.empty()) return InvalidArgumentError("diff: expected two checkpoints");
  ASSIGN_OR_RETURN(const OpenedCheckpoint a, OpenAndTell(options.store));
  ASSIGN_OR_RETURN(const OpenedCheckpoint b, OpenAndTell(options.other));
  ASSIGN_OR_RETURN(const auto differences, CompareCheckpoints(*a.reader, *b.reader));
  if (options.json) {
    Json list = Json::array();
    for (const TensorDifference& d : differences) {
      Json entry = {{"name", d.name}};
      if (!d.what.empty()) entry["what"] = d.what;
      if (d.what.empty()) {
        entry["different"] = d.different;
        entry["max_abs"] = std::isnan(d.max_abs) ? Json(nullptr) : Json(d.max_abs);
      }
      list.push_back(std::move(entry));
    }
    const Json report = {{"steps", {a.reader->step(), b.reader->step()}},
                         {"equal", differences.empty()},
                         {"tensors", list}};
    std::cout << DumpJson(report) << "\n";
    return OkStatus();
  }
  if (differences.empty()) std::cout << "all tensors are equal\n";
  for (const TensorDifference& d : differences) {
    std::cout << d.name << ": ";
    if (!d.what.empty()) {
      std::cout << d.what << "\n";
    } else {
      std::cout << d.different << " elements differ, by at most " << d.max_abs << "\n";
    }
  }
  return OkStatus();
}

Status RunCheckpoint(const CheckpointOptions& options) {
  const std::string& action = options.action;
  if (action == "list") return List(options);
  if (action == "show") return Show(options);
  if (action == "verify") return Verify(options);
  if (action == "hash") return Hash(options);
  if (action == "delete") return Delete(options);
  if (action == "copy") return Copy(options);
  if (action == "diff") return Diff(options);
  if (action == "reshard" || action == "average") {
    return NotBuiltError(StrCat(action, ": not built yet"));
  }
  return InvalidArgumentError(
      StrCat("'", action, "': expected list, show, verify, hash, delete, copy or diff"));
}

const RegisterCommand kCheckpointCommand(
    {"checkpoint", "lists, shows, verifies, hashes, copies, compares and deletes checkpoints",
     "trireme checkpoint list runs/demo\n  trireme checkpoint hash runs/demo@50 --json",
     [](CommandLine& line) {
       auto options = std::make_shared<CheckpointOptions>();
       line.Add("action", options->action, "list, show, verify, hash, delete, copy, diff")
           .Required();
       line.Add("store", options->store, "a store, a run's folder; @STEP for one step").Required();
       line.Add("other", options->other, "copy: the target; diff: the second checkpoint");
       AddJsonOption(line, &options->json);
       return std::function<Status()>([options] { return RunCheckpoint(*options); });
     }});

}  // namespace
}  // namespace trireme
