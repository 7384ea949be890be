// Runs a model with pooling nodes in ONNX Runtime, natively if the library is given: pool MODEL.onnx [LIBRARY]
//
// The model is what onnxpool.export writes. Its first input gets the numbers 1, 2, 3, ...; axes that may change get 4
// cells. Prints the first output, and the operators that ran: SoftPool if our kernel did, else those of its function.
#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <regex>
#include <set>
#include <vector>

int main(int count, char** arguments) try {
  if (count < 2) return std::cerr << "usage: pool MODEL.onnx [LIBRARY]\n", 2;
  const std::filesystem::path model = arguments[1], profile = "pool-profile";
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "pool");
  Ort::SessionOptions options;
  options.EnableProfiling(profile.c_str());  // only for the last line that this prints
  if (count > 2) options.RegisterCustomOpsLibrary(std::filesystem::path(arguments[2]).c_str());
  Ort::Session session(env, model.c_str(), options);

  Ort::AllocatorWithDefaultOptions allocator;
  const auto input = session.GetInputNameAllocated(0, allocator), output = session.GetOutputNameAllocated(0, allocator);
  const char *const inputs[] = {input.get()}, *const outputs[] = {output.get()};
  std::vector<int64_t> shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  int64_t cells = 1;
  for (int64_t& size : shape) cells *= size = size < 0 ? 4 : size;
  std::vector<float> values(static_cast<size_t>(cells));
  std::iota(values.begin(), values.end(), 1.0F);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto x = Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());

  const auto results = session.Run(Ort::RunOptions(), inputs, &x, 1, outputs, 1);
  const auto size = results[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const float* const y = results[0].GetTensorData<float>();
  for (size_t i = 0; i < size; ++i) std::cout << y[i] << (i + 1 < size ? ' ' : '\n');

  std::ifstream file(session.EndProfilingAllocated(allocator).get());
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::regex ran(R"re("op_name"\s*:\s*"(\w+)")re");
  std::set<std::string> operators;
  for (std::sregex_iterator i(text.begin(), text.end(), ran), end; i != end; ++i) operators.insert((*i)[1]);
  std::cout << "ran:";
  for (const std::string& name : operators) std::cout << ' ' << name;
  std::cout << '\n';
} catch (const Ort::Exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
