module slipway

go 1.26.0

require github.com/containerd/containerd/api v1.11.1 // indirect
