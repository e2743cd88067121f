// Objects as files of a local (or shared POSIX) folder.
//
// A write: 1. bytes go to a temporary name beside the target (a crash leaves ".NAME.partial-...",
// which is never listed); 2. fsync of the file (its bytes are on disk before its name is);
// 3. rename, or link when the key must be new (the object appears whole or not at all); 4. fsync of
// the folder (the name outlives a power cut).
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "storage/object_store.h"
#include "storage/output_file.h"

namespace trireme {
namespace {

Status ReadError(std::string_view what, const std::string& path, int error) {
  const std::string text = StrCat(path, ": ", what, ": ", std::strerror(error));
  return error == ENOENT || error == ENOTDIR ? NotFoundError(StrCat(path, ": does not exist"))
                                             : StorageError(text);
}

class File {
 public:
  File(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status SyncPath(const std::string& path, int flags) {
  const File file(path, flags);
  if (file.fd() < 0 || ::fsync(file.fd()) != 0) {
    return StorageError(StrCat(path, ": cannot be synced: ", std::strerror(errno)));
  }
  return OkStatus();
}

Status SyncFolder(const std::string& path) { return SyncPath(path, O_RDONLY | O_DIRECTORY); }

// Makes `path` and its missing parents; each new name is synced into the folder that holds it.
Status MakeFolders(const std::string& path) {
  if (::access(path.c_str(), F_OK) == 0) return OkStatus();
  const std::string parent = ParentOf(path);
  if (parent != path) RETURN_IF_ERROR(MakeFolders(parent));
  if (::mkdir(path.c_str(), 0777) != 0) {
    if (errno == EEXIST) return OkStatus();  // another process was faster
    return StorageError(StrCat(path, ": cannot be made: ", std::strerror(errno)));
  }
  return SyncFolder(parent);
}

// Folders exist only to hold objects: those of the file `path` that are empty go, up to `root`,
// which stays.
void RemoveEmptyFolders(const std::string& path, const std::string& root) {
  for (std::string folder = ParentOf(path); folder.size() > root.size();
       folder = ParentOf(folder)) {
    if (::rmdir(folder.c_str()) != 0) break;
  }
}

// A file on its way. Dropped without Commit(), it takes folders that were made for it along.
class LocalWriter final : public ObjectWriter {
 public:
  LocalWriter(std::unique_ptr<OutputFile> file, std::string root)
      : file_(std::move(file)), path_(file_->path()), root_(std::move(root)) {}
  ~LocalWriter() override {
    file_.reset();
    RemoveEmptyFolders(path_, root_);
  }

  OutputFile& file() { return *file_; }
  Status Append(std::span<const std::byte> bytes) override { return file_->Write(bytes); }
  Status Commit() override {
    RETURN_IF_ERROR(file_->Commit());
    return SyncFolder(ParentOf(path_));
  }

 private:
  std::unique_ptr<OutputFile> file_;
  const std::string path_;
  const std::string root_;
};

class LocalStore final : public ObjectStore {
 public:
  explicit LocalStore(std::string root) : root_(std::move(root)) {
    while (root_.size() > 1 && root_.back() == '/') root_.pop_back();
  }

  std::string Describe(const std::string& key) const override {
    return root_ == "/" ? StrCat("/", key) : StrCat(root_, "/", key);
  }

  Result<std::unique_ptr<ObjectWriter>> Create(const std::string& key) override {
    ASSIGN_OR_RETURN(auto writer, OpenOutput(key));
    return std::unique_ptr<ObjectWriter>(std::move(writer));
  }

  Status Put(const std::string& key, std::span<const std::byte> bytes) override {
    ASSIGN_OR_RETURN(auto writer, Create(key));
    RETURN_IF_ERROR(writer->Append(bytes));
    return writer->Commit();
  }

  Result<bool> PutIfAbsent(const std::string& key, std::span<const std::byte> bytes) override {
    ASSIGN_OR_RETURN(const auto writer, OpenOutput(key));
    OutputFile& file = writer->file();
    RETURN_IF_ERROR(file.Write(bytes));
    RETURN_IF_ERROR(file.Flush());
    RETURN_IF_ERROR(SyncPath(file.temporary_path(), O_RDONLY));
    // link() refuses an existing name, which rename() would replace. The temporary name goes with
    // the OutputFile.
    if (::link(file.temporary_path().c_str(), file.path().c_str()) != 0) {
      if (errno == EEXIST) return false;
      return StorageError(StrCat(file.path(), ": cannot be put in place: ", std::strerror(errno)));
    }
    RETURN_IF_ERROR(SyncFolder(ParentOf(file.path())));
    return true;
  }

  Status Read(const std::string& key, int64_t offset, std::span<std::byte> out) const override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::string path = Describe(key);
    const File file(path, O_RDONLY);
    if (file.fd() < 0) return ReadError("cannot be opened", path, errno);
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got = ::pread(file.fd(), out.data() + done, out.size() - done,
                                  offset + static_cast<int64_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ReadError("cannot be read", path, errno);
      if (got == 0) {
        return DataLossError(StrCat(path, ": ends at byte ", offset + static_cast<int64_t>(done),
                                    ", expected at least ",
                                    offset + static_cast<int64_t>(out.size())));
      }
      done += static_cast<size_t>(got);
    }
    return OkStatus();
  }

  Result<int64_t> Size(const std::string& key) const override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::string path = Describe(key);
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) return ReadError("cannot be opened", path, errno);
    if (!S_ISREG(info.st_mode)) return NotFoundError(StrCat(path, ": is not a file"));
    return static_cast<int64_t>(info.st_size);
  }

  Result<std::vector<std::string>> List(const std::string& prefix) const override {
    std::vector<std::string> keys;
    const size_t slash = prefix.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : prefix.substr(0, slash + 1);
    RETURN_IF_ERROR(Walk(folder, prefix, &keys));
    std::sort(keys.begin(), keys.end());
    return keys;
  }

  Status Delete(const std::string& key) override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::string path = Describe(key);
    if (::unlink(path.c_str()) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return OkStatus();
      return StorageError(StrCat(path, ": cannot be deleted: ", std::strerror(errno)));
    }
    RETURN_IF_ERROR(SyncFolder(ParentOf(path)));
    RemoveEmptyFolders(path, root_);
    return OkStatus();
  }

 private:
  Result<std::unique_ptr<LocalWriter>> OpenOutput(const std::string& key) {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::string path = Describe(key);
    RETURN_IF_ERROR(MakeFolders(ParentOf(path)));
    auto file = OutputFile::Create(path);
    if (!file.ok()) {
      RemoveEmptyFolders(path, root_);
      return file.status();
    }
    return std::make_unique<LocalWriter>(std::move(file).value(), root_);
  }

  // Adds the files below `folder` ("" or "a/b/") whose key starts with `prefix`.
  Status Walk(const std::string& folder, const std::string& prefix,
              std::vector<std::string>* keys) const {
    const std::string path = folder.empty() ? root_ : Describe(folder);
    DIR* dir = ::opendir(path.c_str());
    if (dir == nullptr) {
      if (errno == ENOENT || errno == ENOTDIR) return OkStatus();
      return StorageError(StrCat(path, ": cannot be listed: ", std::strerror(errno)));
    }
    std::vector<std::string> folders;
    while (const dirent* entry = ::readdir(dir)) {
      if (entry->d_name[0] == '.') continue;
      const std::string key = folder + entry->d_name;
      const size_t common = std::min(key.size(), prefix.size());
      if (key.compare(0, common, prefix, 0, common) != 0) continue;
      struct stat info;
      if (::stat(Describe(key).c_str(), &info) != 0) continue;  // gone since it was listed
      if (S_ISDIR(info.st_mode)) {
        folders.push_back(key + "/");
      } else if (S_ISREG(info.st_mode) && key.size() >= prefix.size()) {
        keys->push_back(key);
      }
    }
    ::closedir(dir);
    for (const std::string& sub : folders) RETURN_IF_ERROR(Walk(sub, prefix, keys));
    return OkStatus();
  }

  std::string root_;
};

}  // namespace

std::unique_ptr<ObjectStore> NewLocalStore(const std::string& root) {
  return std::make_unique<LocalStore>(root);
}

}  // namespace trireme
