// Runs the built program in a folder of its own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace trireme {

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

// A fresh folder that is removed at the end; the program runs inside it.
class Workplace {
 public:
  Workplace() {
    std::string name = (std::filesystem::temp_directory_path() / "trireme_cli_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~Workplace() {
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  std::filesystem::path Path(const std::string& name) const { return folder_ / name; }
  void Write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(Path(name).parent_path());
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  std::string Read(const std::string& name) const {
    std::ifstream in(Path(name), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  bool Exists(const std::string& name) const { return std::filesystem::exists(Path(name)); }

  // `arguments` as a shell would read them, after the program's name. `before` may hold another
  // command that takes the program's words as its arguments.
  Outcome Run(const std::string& arguments, const std::string& before = "") const {
    const std::string command = "cd '" + folder_.string() + "' && OMP_WAIT_POLICY=passive " +
                                before + " '" TRIREME_PROGRAM "' " + arguments +
                                " >.out 2>.err </dev/null";
    const int status = std::system(command.c_str());
    Outcome outcome;
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.out = Read(".out");
    outcome.err = Read(".err");
    return outcome;
  }
  // The same with `input` on stdin.
  Outcome RunWithInput(const std::string& arguments, const std::string& input) const {
    Write(".in", input);
    return Run(arguments, R"(sh -c '"$0" "$@" <.in')");
  }

 private:
  std::filesystem::path folder_;
};

// How many lines the text has; a message to users is one.
inline int64_t Lines(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace trireme
