// How a pair comes into being, and what a crash leaves after each step:
// 1. ids and lengths stream into hidden temporary files: leftovers of a killed process, no names.
// 2. .idx and .json are composed under temporary names as well.
// 3. An older .json and .idx of the name are removed: a .bin alone, refused for its missing index.
// 4. .bin, .idx, .json are renamed in this order: the pair reads only once both are new.
#include "storage/token_file_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "cluster/base/checksum.h"
#include "storage/token_format.h"

namespace trireme {
namespace {

template <typename T>
std::string_view BytesOf(const T& value) {
  return std::string_view(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Feeds bytes [begin, end) of `path` to `sink` in pieces.
template <typename Sink>
Status ForEachPiece(const std::string& path, int64_t begin, int64_t end, const Sink& sink) {
  std::ifstream in(path, std::ios::binary);
  in.seekg(begin);
  std::vector<char> buffer(1 << 20);
  while (begin < end) {
    const auto size = std::min<int64_t>(end - begin, static_cast<int64_t>(buffer.size()));
    in.read(buffer.data(), size);
    if (in.gcount() != size) return StorageError(StrCat(path, ": cannot be read back"));
    RETURN_IF_ERROR(sink(std::string_view(buffer.data(), static_cast<size_t>(size))));
    begin += size;
  }
  return OkStatus();
}

Result<std::string> ChecksumOf(const OutputFile& file) {
  ContentHasher hasher;
  RETURN_IF_ERROR(
      ForEachPiece(file.temporary_path(), 0, file.bytes_written(), [&](std::string_view piece) {
        hasher.Update(piece);
        return OkStatus();
      }));
  return hasher.Hex();
}

// Where the documents of one part lie in the stream of all that was written.
struct Part {
  int64_t begin = 0;  // tokens
  int64_t end = 0;
};

// Calls visit(length) for every document of the part, cut at its ends, in order.
template <typename Visit>
Status ForEachLength(const std::string& lengths_path, int64_t documents, const Part& part,
                     const Visit& visit) {
  int64_t position = 0;
  return ForEachPiece(lengths_path, 0, documents * 4, [&](std::string_view piece) {
    for (size_t i = 0; i + 4 <= piece.size(); i += 4) {
      int32_t length;
      std::memcpy(&length, piece.data() + i, 4);
      const int64_t begin = std::max(position, part.begin);
      const int64_t end = std::min(position + length, part.end);
      if (begin < end) RETURN_IF_ERROR(visit(static_cast<int32_t>(end - begin)));
      position += length;
    }
    return OkStatus();
  });
}

Result<int64_t> WriteIndex(const std::string& lengths_path, int64_t documents, const Part& part,
                           TokenDtype dtype, OutputFile* idx) {
  const auto each = [&](const auto& visit) {
    return ForEachLength(lengths_path, documents, part, visit);
  };
  int64_t count = 0;
  RETURN_IF_ERROR(each([&](int32_t) {
    ++count;
    return OkStatus();
  }));
  RETURN_IF_ERROR(idx->Write(std::string_view(kIndexMagic.data(), kIndexMagic.size())));
  RETURN_IF_ERROR(idx->Write(BytesOf(kIndexVersion)));
  RETURN_IF_ERROR(idx->Write(BytesOf(static_cast<uint8_t>(dtype))));
  RETURN_IF_ERROR(idx->Write(BytesOf(static_cast<uint64_t>(count))));
  RETURN_IF_ERROR(idx->Write(BytesOf(static_cast<uint64_t>(count + 1))));
  RETURN_IF_ERROR(each([&](int32_t length) { return idx->Write(BytesOf(length)); }));
  int64_t offset = 0;
  RETURN_IF_ERROR(each([&](int32_t length) {
    const Status status = idx->Write(BytesOf(offset));
    offset += length * TokenDtypeBytes(dtype);
    return status;
  }));
  for (int64_t i = 0; i <= count; ++i) RETURN_IF_ERROR(idx->Write(BytesOf(i)));
  RETURN_IF_ERROR(idx->Flush());
  return count;
}

// One finished part under its temporary names; Publish() gives it its own.
struct FinishedPart {
  std::string name;
  std::unique_ptr<OutputFile> bin;
  std::unique_ptr<OutputFile> idx;
  std::unique_ptr<OutputFile> json;

  void RemoveOlder() const {
    ::unlink((name + ".json").c_str());
    ::unlink((name + ".idx").c_str());
  }
  Status Publish() const {
    RETURN_IF_ERROR(bin->CommitAs(name + ".bin"));
    RETURN_IF_ERROR(idx->Commit());
    return json->Commit();
  }
};

Result<FinishedPart> FinishPart(const std::string& name, std::unique_ptr<OutputFile> bin,
                                const std::string& lengths_path, int64_t documents,
                                const Part& part, TokenDtype dtype, TokenFileInfo info) {
  FinishedPart finished;
  finished.name = name;
  finished.bin = std::move(bin);
  RETURN_IF_ERROR(finished.bin->Flush());
  ASSIGN_OR_RETURN(finished.idx, OutputFile::Create(name + ".idx"));
  TokenFileRecord record;
  record.dtype = dtype;
  record.tokens = part.end - part.begin;
  ASSIGN_OR_RETURN(record.documents,
                   WriteIndex(lengths_path, documents, part, dtype, finished.idx.get()));
  ASSIGN_OR_RETURN(info.bin_checksum, ChecksumOf(*finished.bin));
  ASSIGN_OR_RETURN(info.idx_checksum, ChecksumOf(*finished.idx));
  record.info = std::move(info);
  ASSIGN_OR_RETURN(finished.json, OutputFile::Create(name + ".json"));
  RETURN_IF_ERROR(finished.json->Write(EncodeTokenFileRecord(record)));
  return finished;
}

}  // namespace

TokenFileWriter::TokenFileWriter(TokenFileInfo info, TokenDtype dtype)
    : info_(std::move(info)), dtype_(dtype) {}

Result<std::unique_ptr<TokenFileWriter>> TokenFileWriter::Create(const std::string& name,
                                                                 const TokenFileInfo& info) {
  std::unique_ptr<TokenFileWriter> writer(
      new TokenFileWriter(info, TokenDtypeFor(info.vocab_size)));
  writer->name_ = name;
  ASSIGN_OR_RETURN(writer->bin_, OutputFile::Create(name + ".bin"));
  ASSIGN_OR_RETURN(writer->lengths_, OutputFile::Create(name + ".lengths"));
  return writer;
}

Status TokenFileWriter::AddDocument(std::span<const int32_t> ids) {
  CHECK(!ids.empty()) << "a document without tokens";
  if (ids.size() > static_cast<size_t>(INT32_MAX)) {
    return DataLossError(
        StrCat(name_, ": a document of ", ids.size(), " tokens, expected at most ", INT32_MAX));
  }
  const bool narrow = dtype_ == TokenDtype::kUint16;
  scratch_.resize(ids.size() * (narrow ? 2 : 4));
  for (size_t i = 0; i < ids.size(); ++i) {
    DCHECK(ids[i] >= 0 && ids[i] < info_.vocab_size) << ids[i];
    const auto low = static_cast<uint16_t>(ids[i]);
    if (narrow) {
      std::memcpy(scratch_.data() + 2 * i, &low, 2);
    } else {
      std::memcpy(scratch_.data() + 4 * i, &ids[i], 4);
    }
  }
  RETURN_IF_ERROR(bin_->Write(scratch_));
  const auto length = static_cast<int32_t>(ids.size());
  RETURN_IF_ERROR(lengths_->Write(BytesOf(length)));
  tokens_ += length;
  ++documents_;
  return OkStatus();
}

void TokenFileWriter::SetInfo(TokenFileInfo info) {
  CHECK_EQ(info.vocab_size, info_.vocab_size) << "it decided the dtype";
  info_ = std::move(info);
}

Status TokenFileWriter::Finish() {
  RETURN_IF_ERROR(lengths_->Flush());
  ASSIGN_OR_RETURN(const FinishedPart part,
                   FinishPart(name_, std::move(bin_), lengths_->temporary_path(), documents_,
                              Part{0, tokens_}, dtype_, info_));
  part.RemoveOlder();
  return part.Publish();
}

Status TokenFileWriter::FinishSplit(const std::string& train_name,
                                    const std::string& validation_name, int64_t validation_tokens) {
  CHECK(validation_tokens > 0 && validation_tokens < tokens_) << validation_tokens;
  RETURN_IF_ERROR(lengths_->Flush());
  RETURN_IF_ERROR(bin_->Flush());
  const int64_t cut = tokens_ - validation_tokens;
  const int64_t width = TokenDtypeBytes(dtype_);
  ASSIGN_OR_RETURN(auto validation_bin, OutputFile::Create(validation_name + ".bin"));
  RETURN_IF_ERROR(
      ForEachPiece(bin_->temporary_path(), cut * width, tokens_ * width,
                   [&](std::string_view piece) { return validation_bin->Write(piece); }));
  RETURN_IF_ERROR(bin_->Truncate(cut * width));
  const std::string lengths = lengths_->temporary_path();
  ASSIGN_OR_RETURN(const FinishedPart train, FinishPart(train_name, std::move(bin_), lengths,
                                                        documents_, Part{0, cut}, dtype_, info_));
  ASSIGN_OR_RETURN(const FinishedPart validation,
                   FinishPart(validation_name, std::move(validation_bin), lengths, documents_,
                              Part{cut, tokens_}, dtype_, info_));
  train.RemoveOlder();
  validation.RemoveOlder();
  RETURN_IF_ERROR(train.Publish());
  return validation.Publish();
}

}  // namespace trireme
