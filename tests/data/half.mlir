// A product of 16-bit floats, which the plain baseline profile of Vulkan cannot hold.
func.func @half(%a: tensor<32x64xf16>, %b: tensor<64x32xf16>) -> tensor<32x32xf16> {
  %zero = arith.constant 0.0 : f16
  %e = tensor.empty() : tensor<32x32xf16>
  %f = linalg.fill ins(%zero : f16) outs(%e : tensor<32x32xf16>) -> tensor<32x32xf16>
  %p = linalg.matmul ins(%a, %b : tensor<32x64xf16>, tensor<64x32xf16>) outs(%f : tensor<32x32xf16>) -> tensor<32x32xf16>
  return %p : tensor<32x32xf16>
}
