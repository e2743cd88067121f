// trireme export: a MODEL as the folder that transformers loads.
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <set>

#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/run_options.h"
#include "cluster/base/json.h"
#include "proto/config.pb.h"
#include "storage/object_store.h"
#include "worker/model/hugging_face_export.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

struct ExportOptions {
  std::string model;
  std::string format = "hf";
  std::string out;
  std::string dtype = "auto";
  std::string tokenizer;
  bool json = false;
};

Result<std::optional<DType>> ParseDType(const std::string& name) {
  if (name == "auto") return std::optional<DType>();
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name == DTypeName(dtype)) return std::optional<DType>(dtype);
  }
  return InvalidArgumentError(
      StrCat("--dtype ", name, ": expected auto, float32, bfloat16 or float16"));
}

// A folder beside the target that is removed unless it was put in place.
class StagedFolder {
 public:
  explicit StagedFolder(const fs::path& target)
      : target_(target),
        path_(target.parent_path() /
              StrCat(".", target.filename().string(), ".partial-", ::getpid())) {}
  ~StagedFolder() { Remove(path_); }
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const fs::path& path() const { return path_; }

  Status PutInPlace() {
    const fs::path old = path_.string() + "-old";
    std::error_code error;
    if (fs::exists(target_, error)) fs::rename(target_, old, error);
    if (!error) {
      fs::rename(path_, target_, error);
      std::error_code ignored;
      if (error) fs::rename(old, target_, ignored);
    }
    if (error) {
      return StorageError(StrCat(target_.string(), ": cannot be put in place: ", error.message()));
    }
    Remove(old);
    return OkStatus();
  }

 private:
  static void Remove(const fs::path& path) {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path target_, path_;
};

// The first entry of a folder, by name, that no export writes; "" when there is none.
std::string ForeignEntry(const fs::path& folder) {
  std::set<std::string> foreign;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!IsExportedFile(name) || entry.is_directory(error)) foreign.insert(name);
  }
  return foreign.empty() ? "" : *foreign.begin();
}

// An export may replace an earlier export of a model and an empty folder, nothing else: the folder
// is replaced whole, and with it whatever somebody put beside the model.
Status CheckTarget(const fs::path& out) {
  std::error_code error;
  if (!fs::exists(out, error)) return OkStatus();
  if (!fs::is_directory(out, error)) {
    return InvalidArgumentError(StrCat("--out ", out.string(), ": is a file, expected a folder"));
  }
  if (fs::is_empty(out, error)) return OkStatus();
  const std::string foreign = ForeignEntry(out);
  if (foreign.empty() && fs::exists(out / "config.json", error) &&
      fs::exists(out / "generation_config.json", error)) {
    return OkStatus();
  }
  return InvalidArgumentError(StrCat("--out ", out.string(), ": holds other files",
                                     foreign.empty() ? "" : ": ", foreign,
                                     "; expected a new or empty folder, or an earlier export"));
}

fs::path Normalized(const std::string& path) {
  fs::path normal = fs::absolute(path).lexically_normal();
  return normal.filename().empty() ? normal.parent_path() : normal;
}

Status SaveTokenizer(const std::string& path, int64_t vocab_size, const fs::path& folder) {
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizerFor(path, vocab_size));
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return StorageError(StrCat(folder.string(), ": ", error.message()));
  return tokenizer->Save((folder / "tokenizer.json").string());
}

Status RunExport(const ExportOptions& options) {
  if (options.format == "gguf") return NotBuiltError("--format gguf: not built yet");
  if (options.format != "hf") {
    return InvalidArgumentError(StrCat("--format ", options.format, ": expected hf or gguf"));
  }
  ASSIGN_OR_RETURN(const std::optional<DType> dtype, ParseDType(options.dtype));
  const fs::path out = Normalized(options.out);
  RETURN_IF_ERROR(CheckTarget(out));
  ASSIGN_OR_RETURN(const auto source, WeightSource::Open(options.model));
  if (!source->hugging_face_folder().empty() && Normalized(source->hugging_face_folder()) == out) {
    return InvalidArgumentError(StrCat("--out ", options.out, ": is the model itself"));
  }
  StagedFolder staged(out);
  const auto store = NewLocalStore(staged.path().string());
  TellSetAside("export", source->set_aside());
  HuggingFaceExportOptions export_options;
  if (!options.tokenizer.empty()) {
    RETURN_IF_ERROR(SaveTokenizer(options.tokenizer, source->config().vocab_size(), staged.path()));
    export_options.has_tokenizer = true;
  }
  export_options.dtype = dtype;
  ASSIGN_OR_RETURN(const HuggingFaceExportReport report,
                   ExportHuggingFace(*source, export_options, *store));
  RETURN_IF_ERROR(staged.PutInPlace());
  if (options.json) {
    Json json = {{"out", options.out},
                 {"format", "hf"},
                 {"tensors", report.tensors},
                 {"parameters", report.parameters},
                 {"bytes", report.bytes},
                 {"files", report.files},
                 {"dtype", DTypeName(report.dtype)}};
    if (source->step()) json["step"] = *source->step();
    std::cout << DumpJson(json) << "\n";
    return OkStatus();
  }
  std::cout << options.out << ": " << report.tensors << " tensors, " << report.parameters
            << " parameters, " << DTypeName(report.dtype) << ", " << report.bytes << " bytes in "
            << report.files << (report.files == 1 ? " file\n" : " files\n");
  return OkStatus();
}

const RegisterCommand kExportCommand(
    {"export", "writes a model for other programs",
     "trireme export --model runs/demo --format hf --out demo_hf", [](CommandLine& line) {
       auto options = std::make_shared<ExportOptions>();
       line.Add("--model", options->model, "run, checkpoint, Hugging Face folder or .bin")
           .Required();
       line.Add("--format", options->format, "hf (transformers loads it) or gguf").ShowDefault();
       line.Add("--out", options->out, "folder to write").Required();
       line.Add("--dtype", options->dtype, "auto (as stored), float32, bfloat16 or float16")
           .ShowDefault();
       line.Add("--tokenizer", options->tokenizer,
                "goes with the model, where it brings none or another");
       AddJsonOption(line, &options->json);
       return std::function<Status()>([options] { return RunExport(*options); });
     }});

}  // namespace
}  // namespace trireme
