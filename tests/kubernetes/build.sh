#!/usr/bin/env bash
# Compiles Kubernetes into build/kubernetes/bin, as `go install` would, from the modules of its release: the API server,
# controller manager, scheduler, kubelet, kube-proxy, and agnhost, with which Kubernetes tests networks. That takes some
# 12 minutes on two free cores, 2.4 GB of memory and 4 GB on disk. Does nothing if they exist.

set -euo pipefail
cd "$(dirname "$0")/../.."
. freeze/shell.sh

VERSION=1.37.2
PROGRAMS=(cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler cmd/kubelet cmd/kube-proxy test/images/agnhost)
# The modules that are developed in Kubernetes' own repository: its go.mod points to folders there.
MODULES=(api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap
    code-generator component-base component-helpers controller-manager cri-api cri-client cri-streaming csi-translation-lib
    dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator kube-controller-manager kube-proxy
    kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin
    sample-controller streaming)
HOME_OF=$PWD/build/kubernetes

# Kubernetes itself takes its version from these variables.
version_flags() {
    local package
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        echo "-X $package.gitVersion=v$VERSION -X $package.gitMajor=1 -X $package.gitMinor=${VERSION:2:2}"
    done
}

# A module that requires Kubernetes. Any change of it compiles everything again.
write_module() {
    local name
    printf 'module slash24.test/kubernetes\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$VERSION"
    for name in "${MODULES[@]}"; do
        printf '\tk8s.io/%s => k8s.io/%s v0.%s\n' "$name" "$name" "${VERSION#*.}"
    done
    echo ')'
}

./build.sh --venv
GO=$(find_go)
export GOTOOLCHAIN=local GOFLAGS="-mod=mod -buildvcs=false" CGO_ENABLED=0
MADE_OF="Kubernetes $VERSION $("$GO" env GOVERSION) ${PROGRAMS[*]}"
if [ "$(cat "$HOME_OF/bin/made-of" 2>/dev/null)" = "$MADE_OF" ]; then
    exit
fi
say "compiling Kubernetes $VERSION with $("$GO" version)"
rm -rf build/kubernetes/bin
mkdir -p "$HOME_OF"/{bin,module}
write_module >"$HOME_OF/module/go.mod"
for program in "${PROGRAMS[@]}"; do
    say "compiling $program"
    "$GO" build -C "$HOME_OF/module" -trimpath -ldflags "-s -w $(version_flags | tr '\n' ' ')" -o "$HOME_OF/bin/" "k8s.io/kubernetes/$program"
done
echo "$MADE_OF" >"$HOME_OF/bin/made-of"
