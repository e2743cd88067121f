// Files for tests of TEXT reading.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "worker/text/text_source.h"

namespace trireme {

inline std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// A folder of its own for each test, removed with it.
class TextFilesTest : public ::testing::Test {
 protected:
  TextFilesTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              StrCat("trireme_text_", ::getpid(), "_", test->name());
    std::filesystem::create_directories(folder_);
  }
  ~TextFilesTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  std::string Write(const std::string& name, const std::string& bytes) const {
    const std::string path = Path(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    // A new file each time: cutting an old one makes some file systems write it out at once.
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  // `bytes` compressed as ".gz", ".zst", ".bz2" or ".xz".
  static std::string Compressed(const std::string& bytes, const std::string& compression) {
    return Archived({{"data", bytes}}, compression, archive_write_set_format_raw);
  }
  static std::string Tar(const std::vector<std::pair<std::string, std::string>>& entries,
                         const std::string& compression) {
    return Archived(entries, compression, archive_write_set_format_pax_restricted);
  }
  // All documents, or the error.
  static Result<std::vector<Document>> ReadDocuments(const std::vector<std::string>& paths,
                                                     const TextSourceOptions& options = {}) {
    ASSIGN_OR_RETURN(auto source, TextSource::Open(paths, options));
    std::vector<Document> documents;
    while (true) {
      Document document;
      ASSIGN_OR_RETURN(const bool more, source->Next(&document));
      if (!more) return documents;
      documents.push_back(std::move(document));
    }
  }
  static std::vector<std::string> ReadTexts(const std::vector<std::string>& paths,
                                            const TextSourceOptions& options = {}) {
    auto documents = ReadDocuments(paths, options);
    if (!documents.ok()) return {"error: " + documents.status().message()};
    std::vector<std::string> texts;
    for (const Document& document : *documents) texts.push_back(document.text);
    return texts;
  }
  // The message of the error that reading `paths` must end with; exit code 3, one line.
  static std::string ReadError(const std::vector<std::string>& paths,
                               const TextSourceOptions& options = {}) {
    auto documents = ReadDocuments(paths, options);
    EXPECT_FALSE(documents.ok());
    if (documents.ok()) return "";
    EXPECT_EQ(ExitCode(documents.status()), 3);
    EXPECT_EQ(documents.status().message().find('\n'), std::string::npos);
    return documents.status().message();
  }

  std::filesystem::path folder_;

 private:
  static std::string Archived(const std::vector<std::pair<std::string, std::string>>& entries,
                              const std::string& compression, int (*set_format)(archive*)) {
    size_t bytes = 1 << 16;
    for (const auto& [name, content] : entries) bytes += 2 * content.size() + 4096;
    std::string out(bytes, '\0');
    archive* writer = archive_write_new();
    set_format(writer);
    if (compression == ".gz") archive_write_add_filter_gzip(writer);
    if (compression == ".zst") archive_write_add_filter_zstd(writer);
    if (compression == ".bz2") archive_write_add_filter_bzip2(writer);
    if (compression == ".xz") archive_write_add_filter_xz(writer);
    archive_write_set_bytes_in_last_block(writer, 1);
    size_t used = 0;
    CHECK_EQ(archive_write_open_memory(writer, out.data(), out.size(), &used), ARCHIVE_OK);
    for (const auto& [name, content] : entries) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, name.c_str());
      archive_entry_set_filetype(entry, AE_IFREG);
      archive_entry_set_perm(entry, 0644);
      archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
      CHECK_EQ(archive_write_header(writer, entry), ARCHIVE_OK);
      archive_write_data(writer, content.data(), content.size());
      archive_entry_free(entry);
    }
    archive_write_free(writer);
    out.resize(used);
    return out;
  }
};

}  // namespace trireme
