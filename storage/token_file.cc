#include "storage/token_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cluster/base/checksum.h"
#include "storage/checkpoint_location.h"
#include "storage/token_format.h"

namespace trireme {

struct TokenFile::Mapping {
  const char* data = nullptr;
  int64_t size = 0;

  ~Mapping() {
    if (data != nullptr) ::munmap(const_cast<char*>(data), static_cast<size_t>(size));
  }

  static Result<std::unique_ptr<Mapping>> Open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return DataLossError(StrCat(path, ": cannot be opened: ", std::strerror(errno)));
    auto mapping = std::make_unique<Mapping>();
    struct stat info = {};
    if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(fd);
      return DataLossError(StrCat(path, ": is not a file"));
    }
    void* data = nullptr;
    if (info.st_size > 0) {  // an empty file cannot be mapped
      data = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    }
    const int error = errno;
    ::close(fd);
    if (data == MAP_FAILED) {
      return DataLossError(StrCat(path, ": cannot be mapped: ", std::strerror(error)));
    }
    mapping->data = static_cast<const char*>(data);
    mapping->size = info.st_size;
    return mapping;
  }

  // The fields of an index are not aligned: the header has 34 bytes.
  template <typename T>
  T Load(int64_t offset) const {
    T value;
    std::memcpy(&value, data + offset, sizeof(T));
    return value;
  }

  std::string Checksum() const {
    ContentHasher hasher;
    hasher.Update(std::string_view(data, static_cast<size_t>(size)));
    return hasher.Hex();
  }
};

namespace {

template <typename T>
void Widen(const char* data, int64_t begin, int64_t count, int32_t* out) {
  const char* from = data + begin * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    out[i] = static_cast<int32_t>(value);
  }
}

Status CompareChecksum(const std::string& path, const std::string& expected,
                       const std::string& actual) {
  if (expected.empty() || expected == actual) return OkStatus();
  return DataLossError(
      StrCat(path, ": checksum is ", actual, ", expected ", expected, " as its .json says"));
}

}  // namespace

std::string WithoutTokensEnding(std::string name) {
  if (name.ends_with(".bin") || name.ends_with(".idx")) name.resize(name.size() - 4);
  return name;
}

TokenFile::TokenFile() = default;
TokenFile::~TokenFile() = default;

Result<std::unique_ptr<TokenFile>> TokenFile::Open(const std::string& path,
                                                   const Options& options) {
  namespace fs = std::filesystem;
  const std::string name = WithoutTokensEnding(WithoutFileScheme(path));
  std::error_code ignored;
  const bool has_bin = fs::is_regular_file(name + ".bin", ignored);
  const bool has_idx = fs::is_regular_file(name + ".idx", ignored);
  if (!has_bin && !has_idx) {
    return DataLossError(
        StrCat(path, ": no such token file; expected ", name, ".bin and ", name, ".idx"));
  }
  if (!has_bin) return DataLossError(StrCat(name, ".bin: missing beside ", name, ".idx"));
  std::unique_ptr<TokenFile> file(new TokenFile());
  file->bin_path_ = name + ".bin";
  ASSIGN_OR_RETURN(file->bin_, Mapping::Open(file->bin_path_));
  if (has_idx) {
    RETURN_IF_ERROR(file->OpenIndexed(name, options));
  } else {
    RETURN_IF_ERROR(file->OpenShard(name));
  }
  return file;
}

Status TokenFile::OpenIndexed(const std::string& name, const Options& options) {
  const std::string idx_path = name + ".idx";
  ASSIGN_OR_RETURN(idx_, Mapping::Open(idx_path));
  RETURN_IF_ERROR(ReadIndex(idx_path));
  RETURN_IF_ERROR(CheckIndex(idx_path));
  const int64_t expected = tokens_ * TokenDtypeBytes(dtype_);
  if (bin_->size != expected) {
    return DataLossError(StrCat(bin_path_, ": holds ", bin_->size, " bytes, expected ", expected,
                                " (", tokens_, " tokens of ", TokenDtypeName(dtype_), ")"));
  }
  std::error_code ignored;
  if (std::filesystem::exists(name + ".json", ignored)) {
    RETURN_IF_ERROR(ReadInfo(name + ".json"));
    if (!info_.idx_checksum.empty()) {
      RETURN_IF_ERROR(CompareChecksum(idx_path, info_.idx_checksum, idx_->Checksum()));
    }
    if (bin_->size <= options.verify_bytes_max) RETURN_IF_ERROR(VerifyChecksum());
  }
  return OkStatus();
}

Status TokenFile::ReadIndex(const std::string& idx_path) {
  const int64_t size = idx_->size;
  if (size < static_cast<int64_t>(kIndexMagic.size()) ||
      std::memcmp(idx_->data, kIndexMagic.data(), kIndexMagic.size()) != 0) {
    return DataLossError(
        StrCat(idx_path, ": does not begin with MMIDIDX, the magic of an indexed dataset"));
  }
  if (size < kIndexHeaderBytes) {
    return DataLossError(
        StrCat(idx_path, ": holds ", size, " bytes, expected a header of ", kIndexHeaderBytes));
  }
  const auto version = idx_->Load<uint64_t>(9);
  if (version != kIndexVersion) {
    return DataLossError(StrCat(idx_path, ": version ", version, ", expected ", kIndexVersion));
  }
  const int code = idx_->Load<uint8_t>(17);
  dtype_ = static_cast<TokenDtype>(code);
  if (TokenDtypeBytes(dtype_) == 0) {
    return DataLossError(
        StrCat(idx_path, ": dtype code ", code, ", expected 8 (uint16), 4 (int32), 1, 3 or 5"));
  }
  const auto sequences = idx_->Load<uint64_t>(18);
  const auto indices = idx_->Load<uint64_t>(26);
  // Bounds first, so that the products below cannot overflow.
  const auto limit = static_cast<uint64_t>(size);
  const bool fits = sequences <= limit && indices <= limit && indices > 0;
  const int64_t expected = fits ? kIndexHeaderBytes + static_cast<int64_t>(sequences) * 12 +
                                      static_cast<int64_t>(indices) * 8
                                : -1;
  // A multimodal dataset has one more byte a sequence; the ids do not depend on it.
  if (!fits || (size != expected && size != expected + static_cast<int64_t>(sequences))) {
    return DataLossError(StrCat(idx_path, ": holds ", size, " bytes, expected ",
                                fits ? StrCat(expected) : "more", " for ", sequences,
                                " sequences and ", indices, " document indices"));
  }
  sequences_ = static_cast<int64_t>(sequences);
  documents_ = static_cast<int64_t>(indices) - 1;
  return OkStatus();
}

// Offset in NAME.idx of the first byte offset and of the first document index.
static int64_t PointersAt(int64_t sequences) { return kIndexHeaderBytes + sequences * 4; }
static int64_t DocumentsAt(int64_t sequences) { return kIndexHeaderBytes + sequences * 12; }

int64_t TokenFile::Sequence(int64_t document) const {
  return idx_->Load<int64_t>(DocumentsAt(sequences_) + document * 8);
}

Status TokenFile::CheckIndex(const std::string& idx_path) {
  const int64_t width = TokenDtypeBytes(dtype_);
  int64_t bytes = 0;
  for (int64_t i = 0; i < sequences_; ++i) {
    const auto length = idx_->Load<int32_t>(kIndexHeaderBytes + i * 4);
    const auto pointer = idx_->Load<int64_t>(PointersAt(sequences_) + i * 8);
    if (length < 0 || pointer != bytes) {
      return DataLossError(StrCat(idx_path, ": sequence ", i, " has ", length, " tokens at byte ",
                                  pointer, ", expected byte ", bytes));
    }
    bytes += length * width;
  }
  int64_t previous = 0;
  for (int64_t i = 0; i <= documents_; ++i) {
    const int64_t sequence = Sequence(i);
    const bool wrong = sequence < previous || sequence > sequences_ || (i == 0 && sequence != 0) ||
                       (i == documents_ && sequence != sequences_);
    if (wrong) {
      return DataLossError(StrCat(idx_path, ": document index ", i, " is ", sequence,
                                  ", expected ascending values from 0 to ", sequences_));
    }
    previous = sequence;
  }
  tokens_ = bytes / width;
  return OkStatus();
}

Status TokenFile::ReadInfo(const std::string& json_path) {
  std::ifstream in(json_path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  auto record = DecodeTokenFileRecord(text.str());
  if (!record.ok()) return DataLossError(StrCat(json_path, ": ", record.status().message()));
  const bool tokens_agree = record->tokens < 0 || record->tokens == tokens_;
  const bool documents_agree = record->documents < 0 || record->documents == documents_;
  if (!tokens_agree || !documents_agree) {
    return DataLossError(StrCat(json_path, ": names ", record->documents, " documents and ",
                                record->tokens, " tokens, the .idx beside it ", documents_, " and ",
                                tokens_));
  }
  info_ = record->info;
  namespace fs = std::filesystem;
  if (!info_.tokenizer_path.empty() && fs::path(info_.tokenizer_path).is_relative()) {
    info_.tokenizer_path = (fs::path(json_path).parent_path() / info_.tokenizer_path).string();
  }
  return OkStatus();
}

Status TokenFile::OpenShard(const std::string& name) {
  const int32_t magic = bin_->size >= 12 ? bin_->Load<int32_t>(0) : 0;
  if (magic != kShardMagicGpt2 && magic != kShardMagicLlama3) {
    return DataLossError(StrCat(bin_path_, ": no ", name, ".idx beside it, and it does not begin ",
                                "with the magic of an llm.c shard (", kShardMagicGpt2, " or ",
                                kShardMagicLlama3, ")"));
  }
  const bool gpt2 = magic == kShardMagicGpt2;
  const int32_t version = bin_->Load<int32_t>(4);
  const int32_t expected_version = gpt2 ? 1 : 7;
  if (version != expected_version) {
    return DataLossError(StrCat(bin_path_, ": version ", version, ", expected ", expected_version));
  }
  dtype_ = gpt2 ? TokenDtype::kUint16 : TokenDtype::kInt32;
  tokens_ = bin_->Load<int32_t>(8);
  const int64_t expected = kShardHeaderBytes + tokens_ * TokenDtypeBytes(dtype_);
  if (tokens_ < 0 || bin_->size != expected) {
    return DataLossError(StrCat(bin_path_, ": holds ", bin_->size, " bytes, expected ", expected,
                                " (", tokens_, " tokens of ", TokenDtypeName(dtype_), ")"));
  }
  data_offset_ = kShardHeaderBytes;
  info_.end_of_text = gpt2 ? 50256 : 128000;
  std::vector<int32_t> ids(1 << 16);
  for (int64_t begin = 0; begin < tokens_; begin += static_cast<int64_t>(ids.size())) {
    const int64_t count = std::min<int64_t>(tokens_ - begin, static_cast<int64_t>(ids.size()));
    Read(begin, count, ids.data());
    for (int64_t i = 0; i < count; ++i) {
      if (ids[i] == *info_.end_of_text || begin + i == 0) shard_documents_.push_back(begin + i);
    }
  }
  documents_ = static_cast<int64_t>(shard_documents_.size());
  shard_documents_.push_back(tokens_);
  return OkStatus();
}

void TokenFile::Read(int64_t begin, int64_t count, int32_t* out) const {
  CHECK(begin >= 0 && count >= 0 && begin + count <= tokens_)
      << bin_path_ << ": tokens " << begin << " to " << begin + count << " of " << tokens_;
  const char* data = bin_->data + data_offset_;
  switch (dtype_) {
    case TokenDtype::kUint8:
      return Widen<uint8_t>(data, begin, count, out);
    case TokenDtype::kInt16:
      return Widen<int16_t>(data, begin, count, out);
    case TokenDtype::kUint16:
      return Widen<uint16_t>(data, begin, count, out);
    case TokenDtype::kInt32:
      return Widen<int32_t>(data, begin, count, out);
    case TokenDtype::kInt64:
      return Widen<int64_t>(data, begin, count, out);
  }
}

int64_t TokenFile::document_begin(int64_t document) const {
  CHECK(document >= 0 && document <= documents_) << "document " << document << " of " << documents_;
  if (idx_ == nullptr) return shard_documents_[static_cast<size_t>(document)];
  const int64_t sequence = Sequence(document);
  if (sequence == sequences_) return tokens_;
  return idx_->Load<int64_t>(PointersAt(sequences_) + sequence * 8) / TokenDtypeBytes(dtype_);
}

int64_t TokenFile::DocumentAt(int64_t position) const {
  CHECK(position >= 0 && position < tokens_) << "token " << position << " of " << tokens_;
  int64_t low = 0;
  int64_t high = documents_;  // document_begin(low) <= position < document_begin(high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (document_begin(middle) <= position ? low : high) = middle;
  }
  return low;
}

Status TokenFile::CheckTokenizer(const std::string& hash, const std::string& whose) const {
  const std::string& own = info_.tokenizer_hash;
  if (own.empty() || hash.empty() || own == hash) return OkStatus();
  return InvalidArgumentError(StrCat(path(), ": its tokens are of another tokenizer (", own,
                                     ") than that of ", whose, " (", hash, ")"));
}

Status TokenFile::VerifyChecksum() const {
  if (info_.bin_checksum.empty()) return OkStatus();
  return CompareChecksum(bin_path_, info_.bin_checksum, bin_->Checksum());
}

Status TokenFile::IdError(int64_t position, int32_t id, int64_t vocab_size) const {
  const std::string what = StrCat(bin_path_, ": token ", position, " is ", id);
  if (info_.vocab_size > 0 && info_.vocab_size <= vocab_size) {
    return DataLossError(StrCat(what, ", expected 0 to ", info_.vocab_size - 1));
  }
  return InvalidArgumentError(StrCat(what, ", but model.vocab_size is ", vocab_size));
}

Status TokenFile::CheckIdsBelow(int64_t vocab_size) const {
  std::vector<int32_t> ids(1 << 16);
  for (int64_t begin = 0; begin < tokens_; begin += static_cast<int64_t>(ids.size())) {
    const int64_t count = std::min<int64_t>(tokens_ - begin, static_cast<int64_t>(ids.size()));
    Read(begin, count, ids.data());
    for (int64_t i = 0; i < count; ++i) {
      if (ids[i] < 0 || ids[i] >= vocab_size) {
        return IdError(begin + i, ids[i], vocab_size);
      }
    }
  }
  return OkStatus();
}

std::string TokenFile::Fingerprint() const {
  constexpr int64_t kRuns = 64, kRunTokens = 1 << 16, kBorders = 1 << 16;
  ContentHasher hasher;
  hasher.Update(static_cast<uint64_t>(tokens_));
  hasher.Update(static_cast<uint64_t>(documents_));
  std::vector<int32_t> ids(kRunTokens);
  const int64_t apart = std::max(kRunTokens, (tokens_ - kRunTokens + kRuns - 2) / (kRuns - 1));
  for (int64_t begin = 0; begin < tokens_; begin += apart) {
    const int64_t count = std::min(kRunTokens, tokens_ - begin);
    Read(begin, count, ids.data());
    hasher.Update(std::as_bytes(std::span(ids).first(static_cast<size_t>(count))));
  }
  for (int64_t i = 0; i < documents_; i += std::max<int64_t>(1, documents_ / kBorders)) {
    hasher.Update(static_cast<uint64_t>(document_begin(i)));
  }
  return hasher.Hex();
}

}  // namespace trireme
