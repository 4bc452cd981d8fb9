// A matrix product and a row sum: two dispatches, one of which reduces across a subgroup on GPUs.
func.func @small(%a: tensor<64x128xf32>, %b: tensor<128x64xf32>) -> tensor<64xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<64x64xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<64x64xf32>) -> tensor<64x64xf32>
  %p = linalg.matmul ins(%a, %b : tensor<64x128xf32>, tensor<128x64xf32>) outs(%f : tensor<64x64xf32>) -> tensor<64x64xf32>
  %e1 = tensor.empty() : tensor<64xf32>
  %f1 = linalg.fill ins(%zero : f32) outs(%e1 : tensor<64xf32>) -> tensor<64xf32>
  %s = linalg.reduce ins(%p : tensor<64x64xf32>) outs(%f1 : tensor<64xf32>) dimensions = [1]
    (%in: f32, %sum: f32) { %n = arith.addf %in, %sum : f32 linalg.yield %n : f32 }
  return %s : tensor<64xf32>
}
