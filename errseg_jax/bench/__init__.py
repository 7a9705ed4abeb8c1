"""`errseg bench`: what a network costs; each kind of answer is a file of this package.

`--what=size`: parameters and multiply-adds of a config. `--what=model`: those and the milliseconds they take on the
device at hand. `--what=early_exit`: time of a trained cascade against its mIoU. `--what=sparse`: of a detail branch.
`--what=views`: what views of doubtful tiles gain and cost. `--what=guided_filter`: the filter of the guidance CRF by
radius. `--what=kernels`: the fused loss and labels against the same from full-size logits. `--what=pytorch`: a network
of ours against the same in PyTorch.
"""
