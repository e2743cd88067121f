// Bytes read front to back: a file, what decompresses from it, the entries of a tar in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "cluster/base/status.h"

namespace trireme {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Up to `size` bytes into `out`; 0 only at the end. Errors are kDataLoss and name the stream.
  virtual Result<size_t> Read(char* out, size_t size) = 0;
};

// `bytes_read`, where given, grows with what is read from disk and outlives the stream.
Result<std::unique_ptr<ByteStream>> OpenFileStream(const std::string& path, int64_t* bytes_read);

// ".gz", ".zst", ".bz2" and ".xz" at the end of a name; empty: none of them.
std::string_view CompressionOf(std::string_view name);

// The decompressed bytes of `inner`, which is not owned. `name` serves messages. An input that is
// not of the announced compression, or ends early, is kDataLoss.
Result<std::unique_ptr<ByteStream>> OpenDecompressed(ByteStream* inner,
                                                     std::string_view compression,
                                                     const std::string& name);

// The entries of a tar, in the order stored.
class TarReader {
 public:
  virtual ~TarReader() = default;
  // The path of the next regular file, whose bytes entry() then gives; false at the end.
  virtual Result<bool> Next(std::string* path) = 0;
  virtual ByteStream* entry() = 0;
};
Result<std::unique_ptr<TarReader>> OpenTar(ByteStream* inner, const std::string& name);

// The byte order mark at the beginning of a text.
enum class ByteOrderMark : uint8_t { kNone, kUtf8, kUtf16 };

class UnmarkedStream : public ByteStream {
 public:
  // What was taken off; kNone before the first Read.
  virtual ByteOrderMark mark() const = 0;
};

// `inner` as UTF-8 text: a UTF-8 byte order mark is taken off, UTF-16 with a byte order mark is
// converted (lone surrogates become U+FFFD), anything else passes as it is. `inner` is not owned.
std::unique_ptr<UnmarkedStream> OpenWithoutByteOrderMark(ByteStream* inner);

// The same of a text that has been read: without a UTF-8 byte order mark.
std::string_view WithoutByteOrderMark(std::string_view text);

}  // namespace trireme
