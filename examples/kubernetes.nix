# A Kubernetes manifest that names its image by digest, from the same evaluation that makes the image.
# The digest is known before anything is pushed; building the manifest pushes nothing.
#
#   $(nix-build examples/kubernetes.nix -A image.copyTo --no-out-link)/bin/copy-to \
#     docker://registry.example.org/kubernetes:latest
#   kubectl apply -f $(nix-build examples/kubernetes.nix -A manifest --no-out-link)
{
  # The package set: the nixpkgs that this project is pinned to, or yours
  pkgs ? import ../build-image/names/load-pkgs.nix { },
  # The registry, and the folder in it if there is one
  registry ? "registry.example.org",
}:
let
  nixery = import ../. { inherit pkgs; };

  labels.app = "greeter";
in
rec {
  image = nixery.buildImage {
    name = "kubernetes";
    contents = [
      (pkgs.writeShellScriptBin "greet" ''
        echo "good morning"
        exec ${pkgs.coreutils}/bin/sleep infinity
      '')
    ];
    config.Cmd = [ "greet" ];
  };

  # JSON, which kubectl reads as it does YAML
  manifest = pkgs.writeText "greeter.json" (
    builtins.toJSON {
      apiVersion = "apps/v1";
      kind = "Deployment";
      metadata = {
        name = "greeter";
        inherit labels;
      };
      spec = {
        replicas = 2;
        selector.matchLabels = labels;
        template = {
          metadata = { inherit labels; };
          spec.containers = [
            {
              name = "greeter";
              image = image.reference "${registry}/kubernetes";
            }
          ];
        };
      };
    }
  );
}
