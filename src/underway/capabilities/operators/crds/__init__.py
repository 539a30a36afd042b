"""The CustomResourceDefinitions of metacontroller.k8s.io."""
