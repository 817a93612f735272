package proxy

// kernelTimeouts: the kernel ends TCP connections whose client takes nothing any
// more (TCP_USER_TIMEOUT, which whoever listens sets).
const kernelTimeouts = true
