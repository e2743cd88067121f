// Collectives beside those of the MPI library, in the same run: verified, then timed in turns.
//
//   mpirun -n 2 build/benchmarks/collectives_benchmark [--rounds N] [--smallest BYTES] [--largest
//   BYTES]
//
// Sums are of float32, one leaf a rank, out of place; gathers are in place. The time of a round is
// that of the slowest rank; a line reports the median over rounds of both, and their ratio.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "cluster/comm/communicator.h"

namespace trireme {
namespace {

constexpr Micros kDeadline = 120'000'000;

struct Case {
  const char* name;
  std::function<void()> ours;
  std::function<void()> theirs;
  std::function<bool(bool ours)> right;  // looks at `out` after one of the two
};

class Bench {
 public:
  Bench(Communicator& comm, int64_t bytes)
      : comm_(comm), count_(bytes / 4), in_(count_), out_(count_) {}

  std::vector<Case> Cases() {
    const int n = comm_.size();
    pieces_ = EvenPieces(count_, n, count_ / n);
    counts_.assign(n, static_cast<int>(count_ / n));
    const int64_t mine = pieces_[comm_.rank()].begin;
    for (int64_t i = 0; i < count_; ++i) in_[i] = Value(comm_.rank(), i);
    const SumTree tree = SumTree::Even(n, n);
    const BufferRef in{in_.data(), count_, DType::kF32};
    const BufferRef out{out_.data(), count_, DType::kF32};
    return {
        {"AllReduce", [=, this] { Finish(comm_.AllReduce(std::span(&in, 1), out, tree)); },
         [=, this] {
           MPI_Allreduce(in_.data(), out_.data(), count_, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
         },
         [=, this](bool) { return IsSum(out_.data(), 0, count_); }},
        {"ReduceScatter",
         [=, this] { Finish(comm_.ReduceScatter(std::span(&in, 1), pieces_, out, tree)); },
         [=, this] {
           MPI_Reduce_scatter(in_.data(), out_.data(), counts_.data(), MPI_FLOAT, MPI_SUM,
                              MPI_COMM_WORLD);
         },
         [=, this](bool ours) {
           return IsSum(ours ? out_.data() + mine : out_.data(), mine, count_ / n);
         }},
        {"AllGather", [=, this] { Finish(comm_.AllGather(out, pieces_)); },
         [=, this] {
           MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, out_.data(), count_ / n, MPI_FLOAT,
                         MPI_COMM_WORLD);
         },
         [=, this](bool) { return IsGathered(); }},
    };
  }

  // Only this rank's own piece is right.
  void Clear() {
    std::fill(out_.begin(), out_.end(), -1.0f);
    const Piece& mine = pieces_[comm_.rank()];
    std::copy(in_.begin() + mine.begin, in_.begin() + mine.end, out_.begin() + mine.begin);
  }

 private:
  // Small integers: every order of sums gives the same float.
  static float Value(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 97); }

  static void Finish(Work work) {
    const Status status = work.Wait(kDeadline);
    CHECK(status.ok()) << status.message();
  }

  bool IsSum(const float* data, int64_t begin, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      float sum = 0;
      for (int r = 0; r < comm_.size(); ++r) sum += Value(r, begin + i);
      if (data[i] != sum) return false;
    }
    return true;
  }

  bool IsGathered() const {
    for (const Piece& piece : pieces_) {
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        if (out_[i] != Value(piece.owner, i)) return false;
      }
    }
    return true;
  }

  Communicator& comm_;
  int64_t count_;
  std::vector<float> in_, out_;
  std::vector<Piece> pieces_;
  std::vector<int> counts_;
};

double TimeOnce(const std::function<void()>& run) {
  MPI_Barrier(MPI_COMM_WORLD);
  const double begin = MPI_Wtime();
  run();
  double mine = MPI_Wtime() - begin;
  double slowest = 0;
  MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return slowest * 1e6;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

int Run(Communicator& comm, int64_t smallest, int64_t largest, int rounds_asked) {
  if (comm.rank() == 0) {
    printf("| %-13s | %10s | %6s | %11s | %11s | %13s |\n", "operation", "bytes", "rounds",
           "trireme us", "mpi us", "mpi / trireme");
    printf("|---|---|---|---|---|---|\n");
  }
  for (int64_t bytes = smallest; bytes <= largest; bytes *= 4) {
    Bench bench(comm, bytes / (4 * comm.size()) * (4 * comm.size()));
    for (const Case& test : bench.Cases()) {
      for (bool ours : {true, false}) {
        bench.Clear();
        (ours ? test.ours : test.theirs)();
        int right = test.right(ours);
        MPI_Allreduce(MPI_IN_PLACE, &right, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        CHECK(right) << test.name << " of " << (ours ? "Trireme" : "MPI") << ", " << bytes
                     << " bytes: a wrong result";
      }
      const int rounds = rounds_asked > 0
                             ? rounds_asked
                             : static_cast<int>(std::clamp<int64_t>((1 << 29) / bytes, 15, 201));
      std::vector<double> ours, theirs;
      for (int round = -3; round < rounds; ++round) {
        const double our_time = TimeOnce(test.ours);
        const double their_time = TimeOnce(test.theirs);
        if (round < 0) continue;  // warm-up
        ours.push_back(our_time);
        theirs.push_back(their_time);
      }
      if (comm.rank() == 0) {
        printf("| %-13s | %10ld | %6d | %11.1f | %11.1f | %13.2f |\n", test.name,
               static_cast<long>(bytes), rounds, Median(ours), Median(theirs),
               Median(theirs) / Median(ours));
        fflush(stdout);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  int64_t smallest = 4 << 10;
  int64_t largest = 64 << 20;
  int rounds = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--smallest") == 0) smallest = std::atoll(argv[i + 1]);
    if (std::strcmp(argv[i], "--largest") == 0) largest = std::atoll(argv[i + 1]);
  }
  // The program's progress thread and this benchmark's own calls meet in MPI.
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  {
    auto world = trireme::MpiWorld();
    if (!world.ok()) {
      fprintf(stderr, "%s\n", world.status().message().c_str());
      return 1;
    }
    std::vector<int> members((*world)->world_size());
    std::iota(members.begin(), members.end(), 0);
    auto comm = (*world)->Create("all", members, 1, 1);
    trireme::Run(*comm, smallest, largest, rounds);
  }
  MPI_Finalize();
  return 0;
}
