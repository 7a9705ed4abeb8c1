"""`errseg bench`: what a network costs; each kind of answer is a file of this package, `command` names them.

Of a config, `--what=size`: parameters and multiply-adds; `model`: those and the milliseconds they take on the device at
hand; `train`: a step of each of its stages; `data`: how fast its images come. Of a trained run, `early_exit`: time of a
cascade against its mIoU; `sparse`: of a detail branch; `views`: what views of doubtful tiles gain and cost. Of neither,
`guided_filter`: the filter of the guidance CRF by radius; `crf`: the CRF with it, and a dense one; `kernels`: the fused
loss and labels against the same from full-size logits; `pytorch`: a network of ours against the same in PyTorch.
`all`: all of these that want no trained run.
"""
