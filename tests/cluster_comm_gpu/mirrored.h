// A communicator for memory of a GPU behind one for host memory: the conformance suite's buffers
// are copied to the GPU, the operation runs there, and the results are copied back when it is done.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/comm/communicator.h"
#include "cluster/comm/work_state.h"
#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"

namespace trireme {

// The GPU's copies of the buffers of one operation; one address has one copy.
struct MirroredBuffers {
  BufferRef Add(Stream& stream, BufferRef host) {
    for (const auto& [known, buffer] : pairs) {
      if (known.data == host.data && known.count == host.count) return OnGpu(known, *buffer);
    }
    auto buffer = std::make_shared<Buffer>(std::max<int64_t>(host.bytes(), 1), DeviceKind::kCuda);
    if (host.bytes() > 0) stream.Copy(buffer->data(), host.data, host.bytes());
    pairs.push_back({host, buffer});
    return OnGpu(host, *buffer);
  }
  static BufferRef OnGpu(BufferRef host, const Buffer& buffer) {
    return {buffer.data(), host.count, host.dtype};
  }
  std::vector<std::pair<BufferRef, std::shared_ptr<Buffer>>> pairs;
};

class MirroredWork final : public Work::State {
 public:
  MirroredWork(Work inner, std::shared_ptr<MirroredBuffers> buffers, Stream* stream)
      : inner_(std::move(inner)), buffers_(std::move(buffers)), stream_(stream) {}
  bool Test() override {
    if (!inner_.Test()) return false;
    CopyBack();
    return true;
  }
  Status Wait(Micros timeout) override {
    Status status = inner_.Wait(timeout);
    if (inner_.Test()) CopyBack();
    return status;
  }
  void Abandon(std::shared_ptr<void>) override {
    over_ = true;
    inner_.Abandon(buffers_);
  }
  std::string Describe() const override { return "a mirrored operation"; }
  std::string DescribeWait(Micros waited) override { return inner_.DescribeWait(waited); }

 private:
  void CopyBack() {
    if (std::exchange(over_, true)) return;
    if (!inner_.Wait(0).ok()) return inner_.Abandon(buffers_);
    for (const auto& [host, buffer] : buffers_->pairs) {
      if (host.bytes() > 0) stream_->Copy(host.data, buffer->data(), host.bytes());
    }
    stream_->Synchronize();
  }
  Work inner_;
  std::shared_ptr<MirroredBuffers> buffers_;
  Stream* stream_;
  bool over_ = false;
};

class MirroredCommunicator final : public Communicator {
 public:
  MirroredCommunicator(std::unique_ptr<Communicator> inner, Stream* stream)
      : inner_(std::move(inner)), stream_(stream) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  uint64_t generation() const override { return inner_->generation(); }
  const std::string& name() const override { return inner_->name(); }

  Work ReduceScatter(std::span<const BufferRef> partials, std::span<const Piece> pieces,
                     BufferRef out, const SumTree& tree) override {
    auto buffers = std::make_shared<MirroredBuffers>();
    const auto in = AddAll(*buffers, partials);
    const BufferRef sums = buffers->Add(*stream_, out);
    return Mirror(inner_->ReduceScatter(in, pieces, sums, tree), std::move(buffers));
  }
  Work AllReduce(std::span<const BufferRef> partials, BufferRef out, const SumTree& tree) override {
    auto buffers = std::make_shared<MirroredBuffers>();
    const auto in = AddAll(*buffers, partials);
    const BufferRef sums = buffers->Add(*stream_, out);
    return Mirror(inner_->AllReduce(in, sums, tree), std::move(buffers));
  }
  Work AllGather(BufferRef buffer, std::span<const Piece> pieces) override {
    return One(buffer, [&](BufferRef b) { return inner_->AllGather(b, pieces); });
  }
  Work Broadcast(BufferRef buffer, int root) override {
    return One(buffer, [&](BufferRef b) { return inner_->Broadcast(b, root); });
  }
  Work AllToAll(BufferRef send, std::span<const int64_t> send_counts, BufferRef receive,
                std::span<const int64_t> receive_counts) override {
    auto buffers = std::make_shared<MirroredBuffers>();
    const BufferRef out = buffers->Add(*stream_, send), in = buffers->Add(*stream_, receive);
    return Mirror(inner_->AllToAll(out, send_counts, in, receive_counts), std::move(buffers));
  }
  Work Send(BufferRef buffer, int peer, int tag) override {
    return One(buffer, [&](BufferRef b) { return inner_->Send(b, peer, tag); });
  }
  Work Receive(BufferRef buffer, int peer, int tag) override {
    return One(buffer, [&](BufferRef b) { return inner_->Receive(b, peer, tag); });
  }
  Work Barrier() override { return inner_->Barrier(); }
  void Revoke(const std::string& reason) override { inner_->Revoke(reason); }

 private:
  std::vector<BufferRef> AddAll(MirroredBuffers& buffers, std::span<const BufferRef> hosts) {
    std::vector<BufferRef> on_gpu;
    for (const BufferRef& host : hosts) on_gpu.push_back(buffers.Add(*stream_, host));
    return on_gpu;
  }
  Work Mirror(Work inner, std::shared_ptr<MirroredBuffers> buffers) {
    return Work(std::make_shared<MirroredWork>(std::move(inner), std::move(buffers), stream_));
  }
  template <typename F>
  Work One(BufferRef buffer, const F& call) {
    auto buffers = std::make_shared<MirroredBuffers>();
    const BufferRef on_gpu = buffers->Add(*stream_, buffer);
    return Mirror(call(on_gpu), std::move(buffers));
  }
  std::unique_ptr<Communicator> inner_;
  Stream* stream_;
};

class MirroredFactory final : public CommunicatorFactory {
 public:
  MirroredFactory(CommunicatorFactory* inner, Stream* stream) : inner_(inner), stream_(stream) {}
  std::unique_ptr<Communicator> Create(const std::string& name, std::vector<int> members,
                                       uint16_t group_id, uint64_t generation) override {
    return std::make_unique<MirroredCommunicator>(
        inner_->Create(name, std::move(members), group_id, generation), stream_);
  }
  int world_rank() const override { return inner_->world_rank(); }
  int world_size() const override { return inner_->world_size(); }

 private:
  CommunicatorFactory* inner_;
  Stream* stream_;
};

}  // namespace trireme
