// The yardstick of the benchmark: a controller as client-go's own example writes it, with informers and a work queue.
//
// It brings a TrainingJob as far as its first child: it creates the Job of the stage prepare, writes the status and
// tells an Event. What it sends is what the operator sends: documents in the file that its argument names, in which
// the name, namespace and UID of the TrainingJob are put.
package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

const workers = 16

var (
	trainingJobs = schema.GroupVersionResource{Group: "lmops.dev", Version: "v1alpha1", Resource: "trainingjobs"}
	jobs         = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	pyTorchJobs  = schema.GroupVersionResource{Group: "kubeflow.org", Version: "v1", Resource: "pytorchjobs"}
	pods         = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	events       = schema.GroupVersionResource{Group: "events.k8s.io", Version: "v1", Resource: "events"}
)

// documents are what a TrainingJob is brought forward with, as JSON with the placeholders of `filled`.
type documents struct{ Child, Status, Event json.RawMessage }

type controller struct {
	client         dynamic.Interface
	owners, childs cache.GenericLister
	queue          workqueue.TypedRateLimitingInterface[string]
	documents      documents
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	config := must(clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")))
	config.QPS = -1 // no limit of its own
	c := &controller{
		client: dynamic.NewForConfigOrDie(config),
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	check(json.Unmarshal(must(os.ReadFile(os.Args[1])), &c.documents))
	own := dynamicinformer.NewDynamicSharedInformerFactory(c.client, 0)
	theirs := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.client, 0, meta.NamespaceAll,
		func(options *meta.ListOptions) { options.LabelSelector = "lmops.dev/kind" })
	c.owners, c.childs = own.ForResource(trainingJobs).Lister(), theirs.ForResource(jobs).Lister()
	watch(own.ForResource(trainingJobs).Informer(), c.queue, (*unstructured.Unstructured).GetName)
	for _, resource := range []schema.GroupVersionResource{jobs, pyTorchJobs, pods} {
		watch(theirs.ForResource(resource).Informer(), c.queue,
			func(object *unstructured.Unstructured) string { return object.GetLabels()["lmops.dev/job"] })
	}
	for _, factory := range []dynamicinformer.DynamicSharedInformerFactory{own, theirs} {
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
	}
	for range workers {
		go c.work(ctx)
	}
	<-ctx.Done()
}

// watch puts the key of the TrainingJob that an object belongs to into the queue.
func watch(
	informer cache.SharedIndexInformer,
	queue workqueue.TypedInterface[string],
	owner func(*unstructured.Unstructured) string,
) {
	enqueue := func(object any) {
		if found, ok := object.(*unstructured.Unstructured); ok {
			queue.Add(found.GetNamespace() + "/" + owner(found))
		}
	}
	must(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, object any) { enqueue(object) }, DeleteFunc: enqueue,
	}))
}

func (c *controller) work(ctx context.Context) {
	for {
		key, ended := c.queue.Get()
		if ended {
			return
		}
		if err := c.reconcile(ctx, key); err != nil {
			c.queue.AddRateLimited(key)
		} else {
			c.queue.Forget(key)
		}
		c.queue.Done(key)
	}
}

// reconcile creates what is missing, once.
func (c *controller) reconcile(ctx context.Context, key string) error {
	found, err := c.owners.Get(key)
	if err != nil {
		return ignored(err, errors.IsNotFound)
	}
	owner := found.(*unstructured.Unstructured)
	namespace, name := owner.GetNamespace(), owner.GetName()
	filled := strings.NewReplacer("the-namespace", namespace, "the-name", name, "the-uid", string(owner.GetUID()))
	if _, err := c.childs.Get(key + "-prepare-a0"); errors.IsNotFound(err) {
		child := object(filled.Replace(string(c.documents.Child)))
		_, err := c.client.Resource(jobs).Namespace(namespace).Create(ctx, child, meta.CreateOptions{})
		if err := ignored(err, errors.IsAlreadyExists); err != nil {
			return err
		}
	}
	if owner.Object["status"] != nil {
		return nil
	}
	status := []byte(filled.Replace(string(c.documents.Status)))
	_, err = c.client.Resource(trainingJobs).Namespace(namespace).Patch(
		ctx, name, types.MergePatchType, status, meta.PatchOptions{}, "status")
	if err != nil {
		return err
	}
	event := object(filled.Replace(string(c.documents.Event)))
	_, err = c.client.Resource(events).Namespace(namespace).Create(ctx, event, meta.CreateOptions{})
	return ignored(err, errors.IsAlreadyExists)
}

func object(text string) *unstructured.Unstructured {
	made := &unstructured.Unstructured{}
	check(made.UnmarshalJSON([]byte(text)))
	return made
}

func ignored(err error, expected func(error) bool) error {
	if expected(err) {
		return nil
	}
	return err
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}
